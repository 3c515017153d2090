package main

import (
	"fmt"
	"log"
	"runtime"

	"flashmla"
)

func main() {
	ctx, err := flashmla.Open(flashmla.CPU, nil) // or the ordinal of a GPU
	if err != nil {
		log.Fatal(err)
	}
	defer ctx.Close()

	const heads, page = 16, 64
	q, cache := flashmla.MakeHost[uint16](heads*576), flashmla.MakeHost[uint16](page*576) // bfloat16
	out, lse := flashmla.MakeHost[uint16](heads*512), make([]float32, heads)
	var pins runtime.Pinner // on a GPU: addresses from your CUDA allocator instead
	defer pins.Unpin()
	params := flashmla.DenseDecodeParams{
		B: 1, SQ: 1, HQ: heads, HKV: 1, DQK: 576,
		NumBlocks: 1, PageBlockSize: page, MaxBlocksPerSeq: 1,
		Q:            flashmla.Tensor{Data: flashmla.HostPtr(&pins, q)},
		KVCache:      flashmla.Tensor{Data: flashmla.HostPtr(&pins, cache)},
		BlockTable:   flashmla.Tensor{Data: flashmla.HostPtr(&pins, []int32{0})}, // one request: page 0,
		CacheSeqlens: flashmla.Tensor{Data: flashmla.HostPtr(&pins, []int32{3})}, // three tokens
		Out:          flashmla.Tensor{Data: flashmla.HostPtr(&pins, out)},
		LSE:          flashmla.Tensor{Data: flashmla.HostPtr(&pins, lse)},
	}
	var plan flashmla.Plan
	if err := ctx.DenseDecodePlan(&params, &plan, 0); err != nil { // once a step
		log.Fatal(err)
	}
	if err := ctx.DenseDecode(&params, &plan, 0); err != nil { // once a layer
		log.Fatal(err)
	}
	fmt.Printf("lse of head 0: %f\n", lse[0]) // ln(3): three equal logits
}
