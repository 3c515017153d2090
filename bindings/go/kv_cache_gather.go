package flashmla

/*
#include "outcome.h"

#cgo noescape flashmla_go_kv_cache_gather
#cgo nocallback flashmla_go_kv_cache_gather
static inline flashmla_go_outcome flashmla_go_kv_cache_gather(const flashmla_context_t *context,
	const flashmla_kv_cache_gather_params_t *params, uintptr_t stream) {
	return flashmla_go_done(flashmla_kv_cache_gather(context, params, (cudaStream_t)stream));
}
*/
import "C"

import "unsafe"

// KVCacheGatherParams are the parameters of [Context.KVCacheGather].
type KVCacheGatherParams struct {
	structSize      uintptr
	Layout          Layout // of KVCache
	reserved        int32
	N               int64  // rows of Rows
	DQK             int64  // elements of a row: 576 or 512; with FP8 pages the layout's
	NumBlocks       int64  // pages of the cache
	PageBlockSize   int64  // tokens of a page
	B               int64  // requests of BlockTable; 0 with Indices
	MaxBlocksPerSeq int64  // columns of BlockTable
	KVCache         Tensor // as in [KVCacheAppendParams]
	Indices         Tensor // [N] int32: page * PageBlockSize + position
	BlockTable      Tensor // [B, MaxBlocksPerSeq] int32, instead of Indices
	CuSeqlens       Tensor // [B + 1] int32, ascending: request i gets the rows from CuSeqlens[i] to before CuSeqlens[i + 1]
	SeqStarts       Tensor // [B] int32: the token of each request that its first row gets; Data 0: 0
	Rows            Tensor // [N, DQK] BF16, 16-byte aligned
}

// c is a copy for C, which a goroutine's stack holds and the cgo checks need not search for pointers.
func (p *KVCacheGatherParams) c(to *KVCacheGatherParams) *C.flashmla_kv_cache_gather_params_t {
	if p == nil {
		return nil
	}
	*to = *p
	to.structSize = unsafe.Sizeof(*to)
	return (*C.flashmla_kv_cache_gather_params_t)(unsafe.Pointer(to))
}

// KVCacheGather reads tokens of a cache into BF16 rows, for prefill over a cached prefix, say: the tokens that Indices
// name, or ranges of requests through BlockTable. A row whose token does not exist becomes 0; one that no request has is
// left as it is.
//
// On a GPU it runs on the stream and returns at once; a [CPU] context reads before it returns.
func (c *Context) KVCacheGather(params *KVCacheGatherParams, stream Stream) error {
	const op = "KVCacheGather"
	if err := c.begin(op); err != nil {
		return err
	}
	defer c.end()
	var p KVCacheGatherParams
	return done(op, C.flashmla_go_kv_cache_gather(c.handle, params.c(&p), C.uintptr_t(stream)))
}
