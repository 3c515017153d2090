package flashmla

/*
#include "outcome.h"

#cgo noescape flashmla_go_kv_cache_append
#cgo nocallback flashmla_go_kv_cache_append
static inline flashmla_go_outcome flashmla_go_kv_cache_append(const flashmla_context_t *context,
	const flashmla_kv_cache_append_params_t *params, uintptr_t stream) {
	return flashmla_go_done(flashmla_kv_cache_append(context, params, (cudaStream_t)stream));
}
*/
import "C"

import "unsafe"

// KVCacheAppendParams are the parameters of [Context.KVCacheAppend].
type KVCacheAppendParams struct {
	structSize    uintptr
	Layout        Layout    // of KVCache
	ScaleRule     ScaleRule // LayoutV4 holds powers of two alone; plain rows have no scales
	SlotType      IndexType // of SlotMapping
	reserved      int32
	N             int64  // rows
	DQK           int64  // elements of a row: 576 or 512; with FP8 pages the layout's
	NumBlocks     int64  // pages of the cache
	PageBlockSize int64  // tokens of a page
	Rows          Tensor // [N, DQK] BF16, 16-byte aligned
	SlotMapping   Tensor // [N]: page * PageBlockSize + position; -1, or any other slot outside: nowhere
	KVCache       Tensor // FP8 pages: bytes, [NumBlocks, bytes of a page]; plain: [NumBlocks, PageBlockSize, DQK]; 16-byte aligned
}

// c is a copy for C, which a goroutine's stack holds and the cgo checks need not search for pointers.
func (p *KVCacheAppendParams) c(to *KVCacheAppendParams) *C.flashmla_kv_cache_append_params_t {
	if p == nil {
		return nil
	}
	*to = *p
	to.structSize = unsafe.Sizeof(*to)
	return (*C.flashmla_kv_cache_append_params_t)(unsafe.Pointer(to))
}

// KVCacheAppend stores BF16 rows in the slots of a cache, quantised where its layout asks for that: what an engine does with
// the keys of each step. The rotary part, and plain rows, are copied. No other byte of the cache changes.
//
// On a GPU it runs on the stream and returns at once; a [CPU] context stores before it returns.
func (c *Context) KVCacheAppend(params *KVCacheAppendParams, stream Stream) error {
	const op = "KVCacheAppend"
	if err := c.begin(op); err != nil {
		return err
	}
	defer c.end()
	var p KVCacheAppendParams
	return done(op, C.flashmla_go_kv_cache_append(c.handle, params.c(&p), C.uintptr_t(stream)))
}
