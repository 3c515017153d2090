package flashmla

/*
#include "outcome.h"

#cgo noescape flashmla_go_sparse_decode_query
#cgo nocallback flashmla_go_sparse_decode_query
static inline flashmla_go_outcome flashmla_go_sparse_decode_query(const flashmla_context_t *context,
	const flashmla_sparse_decode_params_t *params, flashmla_kernel_info_t *out) {
	out->struct_size = sizeof *out;
	return flashmla_go_done(flashmla_sparse_decode_query(context, params, out));
}

#cgo noescape flashmla_go_sparse_decode_workspace_size
#cgo nocallback flashmla_go_sparse_decode_workspace_size
static inline flashmla_go_outcome flashmla_go_sparse_decode_workspace_size(const flashmla_context_t *context,
	const flashmla_sparse_decode_params_t *params, size_t *out) {
	return flashmla_go_done(flashmla_sparse_decode_workspace_size(context, params, out));
}

#cgo noescape flashmla_go_sparse_decode_plan_size
#cgo nocallback flashmla_go_sparse_decode_plan_size
static inline flashmla_go_outcome flashmla_go_sparse_decode_plan_size(const flashmla_context_t *context,
	const flashmla_sparse_decode_params_t *params, size_t *out) {
	return flashmla_go_done(flashmla_sparse_decode_plan_size(context, params, out));
}

// The plan is put into the parameters here, as in dense_decode.go.

#cgo noescape flashmla_go_sparse_decode_plan
#cgo nocallback flashmla_go_sparse_decode_plan
static inline flashmla_go_outcome flashmla_go_sparse_decode_plan(const flashmla_context_t *context,
	flashmla_sparse_decode_params_t *params, flashmla_plan_t *plan, uintptr_t stream) {
	flashmla_go_outcome outcome;
	flashmla_plan_t own;
	if (params != NULL && plan != NULL) own = *plan, params->plan = &own;
	outcome = flashmla_go_done(flashmla_sparse_decode_plan(context, params, (cudaStream_t)stream));
	if (params != NULL && plan != NULL) *plan = own;
	return outcome;
}

#cgo noescape flashmla_go_sparse_decode
#cgo nocallback flashmla_go_sparse_decode
static inline flashmla_go_outcome flashmla_go_sparse_decode(const flashmla_context_t *context,
	flashmla_sparse_decode_params_t *params, const flashmla_plan_t *plan, uintptr_t stream) {
	flashmla_plan_t own;
	if (params != NULL && plan != NULL) own = *plan, params->plan = &own;
	return flashmla_go_done(flashmla_sparse_decode(context, params, (cudaStream_t)stream));
}
*/
import "C"

import "unsafe"

// SparseDecodeParams are the parameters of sparse decode. Sizes count elements; strides of the caches are in bytes.
// Members left 0 are defaults, or not wanted. There is a second cache where any of the Extra members is not 0.
type SparseDecodeParams struct {
	structSize         uintptr
	Layout             Layout // of KVCache: LayoutV32 or LayoutV4
	Flags              Flags  // BatchInvariant, LSEEmptyPosInf
	SoftmaxScale       float32
	ExtraLayout        Layout    // of ExtraKVCache: 0, as KVCache; no other is supported
	B                  int64     // requests
	SQ                 int64     // query tokens of a request
	HQ                 int64     // query heads; all share the one KV head
	DQK                int64     // elements of a query row: 576 with LayoutV32, 512 with LayoutV4
	NumBlocks          int64     // pages of the cache
	PageBlockSize      int64     // tokens of a page
	TopK               int64     // indices of a query token
	ExtraNumBlocks     int64     // pages of the second cache
	ExtraPageBlockSize int64     // tokens of its pages
	ExtraTopK          int64     // indices of a query token into it
	Q                  Tensor    // [B, SQ, HQ, DQK] BF16, 16-byte aligned
	KVCache            Tensor    // bytes, [NumBlocks, bytes of a page], 16-byte aligned
	Indices            Tensor    // [B, SQ, TopK] int32: page * PageBlockSize + position; those outside mask their entry
	TopKLength         Tensor    // [B, SQ] int32: how many of its indices count; Data 0: all
	ExtraKVCache       Tensor    // as KVCache: attention runs over the tokens named in either
	ExtraIndices       Tensor    // [B, SQ, ExtraTopK] int32
	ExtraTopKLength    Tensor    // [B, SQ] int32
	AttnSink           Tensor    // [HQ] float32; Data 0: none
	Out                Tensor    // [B, SQ, HQ, 512] BF16, 16-byte aligned
	LSE                Tensor    // [B, HQ, SQ] float32; Data 0: not wanted
	Workspace          DevicePtr // 256-byte aligned; 0 where the workspace size is 0
	WorkspaceSize      uint64    // bytes
	plan               uintptr   // passed beside
}

// c is a copy for C, which a goroutine's stack holds and the cgo checks need not search for pointers.
func (p *SparseDecodeParams) c(to *SparseDecodeParams) *C.flashmla_sparse_decode_params_t {
	if p == nil {
		return nil
	}
	*to = *p
	to.structSize = unsafe.Sizeof(*to)
	return (*C.flashmla_sparse_decode_params_t)(unsafe.Pointer(to))
}

// SparseDecodeQuery tells whether this context can run the problem, and with which kernel. It looks at sizes, layouts
// and flags, and of addresses only whether they are 0.
func (c *Context) SparseDecodeQuery(params *SparseDecodeParams) (KernelInfo, error) {
	const op = "SparseDecodeQuery"
	if err := c.begin(op); err != nil {
		return KernelInfo{}, err
	}
	defer c.end()
	var p SparseDecodeParams
	var info C.flashmla_kernel_info_t
	if err := done(op, C.flashmla_go_sparse_decode_query(c.handle, params.c(&p), &info)); err != nil {
		return KernelInfo{}, err
	}
	return kernelInfo(&info), nil
}

// SparseDecodeWorkspaceSize is the bytes of workspace that SparseDecode needs. What it gives for some B, SQ, TopK and
// ExtraTopK suffices for every smaller value of them too: ask once, with your maxima.
func (c *Context) SparseDecodeWorkspaceSize(params *SparseDecodeParams) (uint64, error) {
	const op = "SparseDecodeWorkspaceSize"
	if err := c.begin(op); err != nil {
		return 0, err
	}
	defer c.end()
	var p SparseDecodeParams
	var size C.size_t
	err := done(op, C.flashmla_go_sparse_decode_workspace_size(c.handle, params.c(&p), &size))
	return uint64(size), err
}

// SparseDecodePlanSize is the bytes of device memory that a plan needs. What it gives suffices for every smaller B and SQ.
func (c *Context) SparseDecodePlanSize(params *SparseDecodeParams) (uint64, error) {
	const op = "SparseDecodePlanSize"
	if err := c.begin(op); err != nil {
		return 0, err
	}
	defer c.end()
	var p SparseDecodeParams
	var size C.size_t
	err := done(op, C.flashmla_go_sparse_decode_plan_size(c.handle, params.c(&p), &size))
	return uint64(size), err
}

// SparseDecodePlan divides the work of a step over the device: it writes the plan to plan.Data on the stream. Call it
// once a step, before the first layer; it reads TopKLength and ExtraTopKLength alone of the tensors, and without them a
// plan serves every step of the same sizes.
func (c *Context) SparseDecodePlan(params *SparseDecodeParams, plan *Plan, stream Stream) error {
	const op = "SparseDecodePlan"
	if err := c.begin(op); err != nil {
		return err
	}
	defer c.end()
	var p SparseDecodeParams
	var own Plan
	err := done(op, C.flashmla_go_sparse_decode_plan(c.handle, params.c(&p), plan.c(&own), C.uintptr_t(stream)))
	if err == nil && plan != nil {
		plan.fingerprint = own.fingerprint
	}
	return err
}

// SparseDecode is attention of every query token to the tokens of an FP8 cache, and of a second one where there is one,
// that its indices name, all heads sharing them: out = softmax(scale * Q * K^T) * V, V being the first 512 elements of a
// token, and the natural logarithm of the sum of the exponentials to LSE. A query that attends to nothing gets Out 0 and
// LSE -inf.
//
// It needs the plan of the step. On a GPU it runs on the stream and returns at once; a [CPU] context computes before it
// returns. Calls that run at the same time need workspaces of their own.
func (c *Context) SparseDecode(params *SparseDecodeParams, plan *Plan, stream Stream) error {
	const op = "SparseDecode"
	if err := c.begin(op); err != nil {
		return err
	}
	defer c.end()
	var p SparseDecodeParams
	var own Plan
	return done(op, C.flashmla_go_sparse_decode(c.handle, params.c(&p), plan.c(&own), C.uintptr_t(stream)))
}
