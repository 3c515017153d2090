package flashmla

/*
#include "outcome.h"

#cgo noescape flashmla_go_map_indices
#cgo nocallback flashmla_go_map_indices
static inline flashmla_go_outcome flashmla_go_map_indices(const flashmla_context_t *context,
	const flashmla_map_indices_params_t *params, uintptr_t stream) {
	return flashmla_go_done(flashmla_map_indices(context, params, (cudaStream_t)stream));
}
*/
import "C"

import "unsafe"

// MapIndicesParams are the parameters of [Context.MapIndices].
type MapIndicesParams struct {
	structSize      uintptr
	B               int64  // requests
	SQ              int64  // query tokens of a request
	TopK            int64  // positions of a query token
	NumBlocks       int64  // pages of the cache
	PageBlockSize   int64  // tokens of a page
	MaxBlocksPerSeq int64  // columns of the block table
	Positions       Tensor // [B, SQ, TopK] int32: tokens of the request, counted from its first
	BlockTable      Tensor // [B, MaxBlocksPerSeq] int32
	CacheSeqlens    Tensor // [B] int32: positions from here on become -1; Data 0: those that the block table has no room for
	Indices         Tensor // [B, SQ, TopK] int32; may be Positions itself, with its strides
}

// c is a copy for C, which a goroutine's stack holds and the cgo checks need not search for pointers.
func (p *MapIndicesParams) c(to *MapIndicesParams) *C.flashmla_map_indices_params_t {
	if p == nil {
		return nil
	}
	*to = *p
	to.structSize = unsafe.Sizeof(*to)
	return (*C.flashmla_map_indices_params_t)(unsafe.Pointer(to))
}

// MapIndices turns token positions within requests, as an indexer returns them, into the indices of SparseDecode. What is
// no token of the request becomes -1.
//
// On a GPU it runs on the stream and returns at once; a [CPU] context computes before it returns.
func (c *Context) MapIndices(params *MapIndicesParams, stream Stream) error {
	const op = "MapIndices"
	if err := c.begin(op); err != nil {
		return err
	}
	defer c.end()
	var p MapIndicesParams
	return done(op, C.flashmla_go_map_indices(c.handle, params.c(&p), C.uintptr_t(stream)))
}
