package flashmla

/*
#include "outcome.h"

#cgo noescape flashmla_go_dense_decode_query
#cgo nocallback flashmla_go_dense_decode_query
static inline flashmla_go_outcome flashmla_go_dense_decode_query(const flashmla_context_t *context,
	const flashmla_dense_decode_params_t *params, flashmla_kernel_info_t *out) {
	out->struct_size = sizeof *out;
	return flashmla_go_done(flashmla_dense_decode_query(context, params, out));
}

#cgo noescape flashmla_go_dense_decode_workspace_size
#cgo nocallback flashmla_go_dense_decode_workspace_size
static inline flashmla_go_outcome flashmla_go_dense_decode_workspace_size(const flashmla_context_t *context,
	const flashmla_dense_decode_params_t *params, size_t *out) {
	return flashmla_go_done(flashmla_dense_decode_workspace_size(context, params, out));
}

#cgo noescape flashmla_go_dense_decode_plan_size
#cgo nocallback flashmla_go_dense_decode_plan_size
static inline flashmla_go_outcome flashmla_go_dense_decode_plan_size(const flashmla_context_t *context,
	const flashmla_dense_decode_params_t *params, size_t *out) {
	return flashmla_go_done(flashmla_dense_decode_plan_size(context, params, out));
}

// The address of the plan would be one of Go's inside of Go's memory: it is put there here, as one of C's.

#cgo noescape flashmla_go_dense_decode_plan
#cgo nocallback flashmla_go_dense_decode_plan
static inline flashmla_go_outcome flashmla_go_dense_decode_plan(const flashmla_context_t *context,
	flashmla_dense_decode_params_t *params, flashmla_plan_t *plan, uintptr_t stream) {
	flashmla_go_outcome outcome;
	flashmla_plan_t own;
	if (params != NULL && plan != NULL) own = *plan, params->plan = &own;
	outcome = flashmla_go_done(flashmla_dense_decode_plan(context, params, (cudaStream_t)stream));
	if (params != NULL && plan != NULL) *plan = own;
	return outcome;
}

#cgo noescape flashmla_go_dense_decode
#cgo nocallback flashmla_go_dense_decode
static inline flashmla_go_outcome flashmla_go_dense_decode(const flashmla_context_t *context,
	flashmla_dense_decode_params_t *params, const flashmla_plan_t *plan, uintptr_t stream) {
	flashmla_plan_t own;
	if (params != NULL && plan != NULL) own = *plan, params->plan = &own;
	return flashmla_go_done(flashmla_dense_decode(context, params, (cudaStream_t)stream));
}
*/
import "C"

import "unsafe"

// DenseDecodeParams are the parameters of dense decode. Sizes count elements. Members left 0 are defaults, or not wanted.
type DenseDecodeParams struct {
	structSize      uintptr
	Dtype           Dtype // of Q, KVCache and Out
	Flags           Flags
	B               int64 // requests
	SQ              int64 // query tokens of a request
	HQ              int64 // query heads, a multiple of HKV
	HKV             int64 // KV heads
	DQK             int64 // elements of a query or cache row: 576, or 512 for a cache without RoPE
	DV              int64 // elements of an output row: 512; 0: 512
	NumBlocks       int64 // pages of the cache
	PageBlockSize   int64 // tokens of a page; multiples of 64 run at full speed
	MaxBlocksPerSeq int64 // columns of the block table
	SoftmaxScale    float32
	reserved        int32
	Q               Tensor    // [B, SQ, HQ, DQK], 16-byte aligned
	KVCache         Tensor    // [NumBlocks, PageBlockSize, HKV, DQK], 16-byte aligned
	BlockTable      Tensor    // [B, MaxBlocksPerSeq] int32
	CacheSeqlens    Tensor    // [B] int32
	Out             Tensor    // [B, SQ, HQ, 512], 16-byte aligned
	LSE             Tensor    // [B, HQ, SQ] float32; Data 0: not wanted
	Workspace       DevicePtr // 256-byte aligned; 0 where the workspace size is 0
	WorkspaceSize   uint64    // bytes
	plan            uintptr   // passed beside
	KVLayout        Layout    // of KVCache; with pages of FP8 Dtype is BF16, HKV 1, DQK the layout's
	reserved2       int32
}

// A Plan is a division of decode work over a GPU: memory for it, and what it was made for. The plan function of an
// operation fills the memory on the stream; the operation refuses a plan that was made for other sizes or flags.
//
// A Plan that is being made must not be in use elsewhere; once made, it serves any number of calls at once.
type Plan struct {
	structSize  uintptr
	Data        DevicePtr // device memory, 256-byte aligned; 0 where the plan size is 0
	Size        uint64    // bytes
	fingerprint uint64
}

// Made tells whether the plan has been made.
func (p *Plan) Made() bool { return p != nil && p.fingerprint != 0 }

// c is a copy for C, which a goroutine's stack holds and the cgo checks need not search for pointers.
func (p *DenseDecodeParams) c(to *DenseDecodeParams) *C.flashmla_dense_decode_params_t {
	if p == nil {
		return nil
	}
	*to = *p
	to.structSize = unsafe.Sizeof(*to)
	return (*C.flashmla_dense_decode_params_t)(unsafe.Pointer(to))
}

func (p *Plan) c(to *Plan) *C.flashmla_plan_t {
	if p == nil {
		return nil
	}
	*to = *p
	to.structSize = unsafe.Sizeof(*to)
	return (*C.flashmla_plan_t)(unsafe.Pointer(to))
}

// DenseDecodeQuery tells whether this context can run the problem, and with which kernel. It looks at sizes, dtype and
// flags alone.
func (c *Context) DenseDecodeQuery(params *DenseDecodeParams) (KernelInfo, error) {
	const op = "DenseDecodeQuery"
	if err := c.begin(op); err != nil {
		return KernelInfo{}, err
	}
	defer c.end()
	var p DenseDecodeParams
	var info C.flashmla_kernel_info_t
	if err := done(op, C.flashmla_go_dense_decode_query(c.handle, params.c(&p), &info)); err != nil {
		return KernelInfo{}, err
	}
	return kernelInfo(&info), nil
}

// DenseDecodeWorkspaceSize is the bytes of workspace that DenseDecode needs. What it gives for some B, SQ and
// MaxBlocksPerSeq suffices for every smaller value of them too, whatever the lengths: ask once, with your maxima.
func (c *Context) DenseDecodeWorkspaceSize(params *DenseDecodeParams) (uint64, error) {
	const op = "DenseDecodeWorkspaceSize"
	if err := c.begin(op); err != nil {
		return 0, err
	}
	defer c.end()
	var p DenseDecodeParams
	var size C.size_t
	err := done(op, C.flashmla_go_dense_decode_workspace_size(c.handle, params.c(&p), &size))
	return uint64(size), err
}

// DenseDecodePlanSize is the bytes of device memory that a plan needs. What it gives suffices for every smaller B and SQ.
func (c *Context) DenseDecodePlanSize(params *DenseDecodeParams) (uint64, error) {
	const op = "DenseDecodePlanSize"
	if err := c.begin(op); err != nil {
		return 0, err
	}
	defer c.end()
	var p DenseDecodeParams
	var size C.size_t
	err := done(op, C.flashmla_go_dense_decode_plan_size(c.handle, params.c(&p), &size))
	return uint64(size), err
}

// DenseDecodePlan divides the work of a step over the device: it writes the plan to plan.Data on the stream. Call it
// once a step, before the first layer; it reads CacheSeqlens alone of the tensors.
func (c *Context) DenseDecodePlan(params *DenseDecodeParams, plan *Plan, stream Stream) error {
	const op = "DenseDecodePlan"
	if err := c.begin(op); err != nil {
		return err
	}
	defer c.end()
	var p DenseDecodeParams
	var own Plan
	err := done(op, C.flashmla_go_dense_decode_plan(c.handle, params.c(&p), plan.c(&own), C.uintptr_t(stream)))
	if err == nil && plan != nil {
		plan.fingerprint = own.fingerprint
	}
	return err
}

// DenseDecode is attention of SQ query tokens per request over a paged KV cache, all heads of a KV head sharing its rows:
// out = softmax(scale * Q * K^T) * V, V being the first 512 elements of a cache row, and the natural logarithm of the sum
// of the exponentials to LSE. A query that sees no token gets Out 0 and LSE -inf.
//
// It needs the plan of the step. On a GPU it runs on the stream and returns at once; a [CPU] context computes before it
// returns. Calls that run at the same time need workspaces of their own.
func (c *Context) DenseDecode(params *DenseDecodeParams, plan *Plan, stream Stream) error {
	const op = "DenseDecode"
	if err := c.begin(op); err != nil {
		return err
	}
	defer c.end()
	var p DenseDecodeParams
	var own Plan
	return done(op, C.flashmla_go_dense_decode(c.handle, params.c(&p), plan.c(&own), C.uintptr_t(stream)))
}
