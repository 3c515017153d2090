package flashmla_test

import (
	"errors"
	"fmt"
	"log"
	"runtime"

	"flashmla"
)

// A paged decode on the CPU backend: one request of three tokens, 16 heads, one query token.
func Example() {
	ctx, err := flashmla.Open(flashmla.CPU, nil) // or the ordinal of a GPU
	if err != nil {
		log.Fatal(err)
	}
	defer ctx.Close()

	const heads, page = 16, 64
	q := flashmla.MakeHost[uint16](heads * 576) // bfloat16
	cache := flashmla.MakeHost[uint16](page * 576)
	out := flashmla.MakeHost[uint16](heads * 512)
	lse := make([]float32, heads)

	var pins runtime.Pinner // on a GPU: addresses from your CUDA allocator instead
	defer pins.Unpin()
	params := flashmla.DenseDecodeParams{
		B: 1, SQ: 1, HQ: heads, HKV: 1, DQK: 576,
		NumBlocks: 1, PageBlockSize: page, MaxBlocksPerSeq: 1,
		Q:            flashmla.Tensor{Data: flashmla.HostPtr(&pins, q)},
		KVCache:      flashmla.Tensor{Data: flashmla.HostPtr(&pins, cache)},
		BlockTable:   flashmla.Tensor{Data: flashmla.HostPtr(&pins, []int32{0})},
		CacheSeqlens: flashmla.Tensor{Data: flashmla.HostPtr(&pins, []int32{3})},
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
	fmt.Printf("lse of head 0: %.6f\n", lse[0]) // ln(3): three equal logits
	// Output: lse of head 0: 1.098612
}

// Buffers of a GPU are made once, for the greatest problem that will come; those of the CPU backend have no bytes.
func ExampleContext_DenseDecodeWorkspaceSize() {
	ctx, err := flashmla.Open(flashmla.CPU, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer ctx.Close()
	greatest := flashmla.DenseDecodeParams{
		B: 256, SQ: 2, HQ: 128, HKV: 1, DQK: 576,
		NumBlocks: 100000, PageBlockSize: 64, MaxBlocksPerSeq: 2048,
	}
	plan, err := ctx.DenseDecodePlanSize(&greatest)
	if err != nil {
		log.Fatal(err)
	}
	workspace, err := ctx.DenseDecodeWorkspaceSize(&greatest)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(plan, workspace)
	// Output: 0 0
}

// Two query tokens of a prefill, each with KV rows of its own choice; the second chose none.
func ExampleContext_SparsePrefill() {
	ctx, err := flashmla.Open(flashmla.CPU, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer ctx.Close()

	const tokens, heads, rows, topk = 2, 8, 10, 4
	lse := make([]float32, tokens*heads)
	var pins runtime.Pinner
	defer pins.Unpin()
	tensor := func(n int) flashmla.Tensor {
		return flashmla.Tensor{Data: flashmla.HostPtr(&pins, flashmla.MakeHost[uint16](n))}
	}
	params := flashmla.SparsePrefillParams{
		SQ: tokens, HQ: heads, SKV: rows, DQK: 576, TopK: topk,
		Q:       tensor(tokens * heads * 576),
		KV:      tensor(rows * 576),
		Indices: flashmla.Tensor{Data: flashmla.HostPtr(&pins, []int32{9, 0, 3, -1 /* masked */, -1, -1, -1, -1})},
		Out:     tensor(tokens * heads * 512),
		LSE:     flashmla.Tensor{Data: flashmla.HostPtr(&pins, lse)},
	}
	if err := ctx.SparsePrefill(&params, 0); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%.4f %.0f\n", lse[0], lse[heads])
	// Output: 1.0986 -Inf
}

// An error says what was wrong, and who has to do something about it.
func ExampleError() {
	ctx, err := flashmla.Open(flashmla.CPU, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer ctx.Close()
	_, err = ctx.DenseDecodeQuery(&flashmla.DenseDecodeParams{HQ: 16, HKV: 3, DQK: 576, PageBlockSize: 64})
	fmt.Println(err)
	fmt.Println(errors.Is(err, flashmla.ErrInvalidShape), errors.Is(err, flashmla.ArgumentError))
	// Output:
	// flashmla: DenseDecodeQuery: h_q = 16: must be a multiple of h_kv = 3 (FLASHMLA_ERROR_INVALID_SHAPE)
	// true true
}

// A program that takes the GPU where there is one.
func ExampleCategory() {
	ctx, err := flashmla.Open(1000, nil) // there are not that many
	if errors.Is(err, flashmla.EnvironmentError) || errors.Is(err, flashmla.UnsupportedError) {
		ctx, err = flashmla.Open(flashmla.CPU, nil)
	}
	if err != nil {
		log.Fatal(err)
	}
	defer ctx.Close()
	info, err := ctx.DeviceInfo()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(info.Device == flashmla.CPU)
	// Output: true
}
