package flashmla

/*
#include "outcome.h"

#cgo noescape flashmla_go_sparse_prefill_query
#cgo nocallback flashmla_go_sparse_prefill_query
static inline flashmla_go_outcome flashmla_go_sparse_prefill_query(const flashmla_context_t *context,
	const flashmla_sparse_prefill_params_t *params, flashmla_kernel_info_t *out) {
	out->struct_size = sizeof *out;
	return flashmla_go_done(flashmla_sparse_prefill_query(context, params, out));
}

#cgo noescape flashmla_go_sparse_prefill_workspace_size
#cgo nocallback flashmla_go_sparse_prefill_workspace_size
static inline flashmla_go_outcome flashmla_go_sparse_prefill_workspace_size(const flashmla_context_t *context,
	const flashmla_sparse_prefill_params_t *params, size_t *out) {
	return flashmla_go_done(flashmla_sparse_prefill_workspace_size(context, params, out));
}

#cgo noescape flashmla_go_sparse_prefill
#cgo nocallback flashmla_go_sparse_prefill
static inline flashmla_go_outcome flashmla_go_sparse_prefill(const flashmla_context_t *context,
	const flashmla_sparse_prefill_params_t *params, uintptr_t stream) {
	return flashmla_go_done(flashmla_sparse_prefill(context, params, (cudaStream_t)stream));
}
*/
import "C"

import "unsafe"

// SparsePrefillParams are the parameters of sparse prefill. Sizes count elements. There is no batch axis: requests are
// laid one after another along SQ, their rows along SKV. Members left 0 are defaults, or not wanted.
type SparsePrefillParams struct {
	structSize    uintptr
	Flags         Flags // 0 or LSEEmptyPosInf
	SoftmaxScale  float32
	SQ            int64     // query tokens
	HQ            int64     // query heads; all share the one KV head
	SKV           int64     // rows of KV
	DQK           int64     // elements of a query or KV row: 576, or 512 for rows without RoPE
	TopK          int64     // indices of a query token
	Q             Tensor    // [SQ, HQ, DQK] BF16, 16-byte aligned
	KV            Tensor    // [SKV, 1, DQK] BF16, 16-byte aligned
	Indices       Tensor    // [SQ, 1, TopK] int32; those outside [0, SKV) mask their entry
	TopKLength    Tensor    // [SQ] int32: how many of its indices count; Data 0: all
	AttnSink      Tensor    // [HQ] float32; Data 0: none
	Out           Tensor    // [SQ, HQ, 512] BF16, 16-byte aligned
	MaxLogits     Tensor    // [SQ, HQ] float32; Data 0: not wanted
	LSE           Tensor    // [SQ, HQ] float32; Data 0: not wanted
	Workspace     DevicePtr // 256-byte aligned; 0 where the workspace size is 0
	WorkspaceSize uint64    // bytes
}

// c is a copy for C, which a goroutine's stack holds and the cgo checks need not search for pointers.
func (p *SparsePrefillParams) c(to *SparsePrefillParams) *C.flashmla_sparse_prefill_params_t {
	if p == nil {
		return nil
	}
	*to = *p
	to.structSize = unsafe.Sizeof(*to)
	return (*C.flashmla_sparse_prefill_params_t)(unsafe.Pointer(to))
}

// SparsePrefillQuery tells whether this context can run the problem, and with which kernel. It looks at sizes and flags
// alone.
func (c *Context) SparsePrefillQuery(params *SparsePrefillParams) (KernelInfo, error) {
	const op = "SparsePrefillQuery"
	if err := c.begin(op); err != nil {
		return KernelInfo{}, err
	}
	defer c.end()
	var p SparsePrefillParams
	var info C.flashmla_kernel_info_t
	if err := done(op, C.flashmla_go_sparse_prefill_query(c.handle, params.c(&p), &info)); err != nil {
		return KernelInfo{}, err
	}
	return kernelInfo(&info), nil
}

// SparsePrefillWorkspaceSize is the bytes of workspace that SparsePrefill needs. What it gives for some SQ, SKV and TopK
// suffices for every smaller value of them too: ask once, with your maxima.
func (c *Context) SparsePrefillWorkspaceSize(params *SparsePrefillParams) (uint64, error) {
	const op = "SparsePrefillWorkspaceSize"
	if err := c.begin(op); err != nil {
		return 0, err
	}
	defer c.end()
	var p SparsePrefillParams
	var size C.size_t
	err := done(op, C.flashmla_go_sparse_prefill_workspace_size(c.handle, params.c(&p), &size))
	return uint64(size), err
}

// SparsePrefill is attention of every query token to the KV rows that its indices name, all heads sharing them:
// out = softmax(S) * V with S = scale * Q * K^T, V being the first 512 elements of a row, the greatest S to MaxLogits and
// the natural logarithm of the sum of their exponentials to LSE. A query that attends to nothing gets Out 0, MaxLogits
// and LSE -inf.
//
// On a GPU it runs on the stream and returns at once; a [CPU] context computes before it returns. Calls that run at the
// same time need workspaces of their own.
func (c *Context) SparsePrefill(params *SparsePrefillParams, stream Stream) error {
	const op = "SparsePrefill"
	if err := c.begin(op); err != nil {
		return err
	}
	defer c.end()
	var p SparsePrefillParams
	return done(op, C.flashmla_go_sparse_prefill(c.handle, params.c(&p), C.uintptr_t(stream)))
}
