package flashmla_test

import (
	"fmt"
	"log"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"

	"flashmla"
)

// The way of an engine with an FP8 cache: rows are appended, an indexer's positions mapped, attended to, and read back.
func TestLatentCache(t *testing.T) {
	const b, topk, columns, tokenBytes = 3, 6, 3, 656
	const pages = b * columns
	ctx := open(t, flashmla.CPU, nil)
	r := rand.New(rand.NewPCG(7, 1))
	lens := []int32{40, 0, 17}
	table := make([]int32, b*columns)
	for i, page := range r.Perm(pages) {
		table[i] = int32(page)
	}
	// Token j of request i.
	slot := func(i, j int) int32 { return table[i*columns+j/pageSize]*pageSize + int32(j%pageSize) }

	var slots []int64
	cu := []int32{0}
	for i, n := range lens {
		for j := range int(n) {
			slots = append(slots, int64(slot(i, j)))
		}
		cu = append(cu, int32(len(slots)))
	}
	n := len(slots)
	slots = append(slots, -1) // and a row that goes nowhere
	rows, back := flashmla.MakeHost[uint16]((n+1)*576), flashmla.MakeHost[uint16](n*576)
	random(r, rows)
	cache := flashmla.MakeHost[uint8](pages * pageSize * tokenBytes)
	for i := range cache {
		cache[i] = 0xff // NaN, wherever nothing is stored
	}

	var pins runtime.Pinner
	defer pins.Unpin()
	kv := flashmla.Tensor{Data: flashmla.HostPtr(&pins, cache)}
	blockTable := flashmla.Tensor{Data: flashmla.HostPtr(&pins, table)}
	seqlens := flashmla.Tensor{Data: flashmla.HostPtr(&pins, lens)}
	if err := ctx.KVCacheAppend(&flashmla.KVCacheAppendParams{
		Layout: flashmla.LayoutV32, ScaleRule: flashmla.ScalePowerOfTwo, SlotType: flashmla.Int64,
		N: int64(n + 1), DQK: 576, NumBlocks: pages, PageBlockSize: pageSize,
		Rows: flashmla.Tensor{Data: flashmla.HostPtr(&pins, rows)}, SlotMapping: flashmla.Tensor{Data: flashmla.HostPtr(&pins, slots)},
		KVCache: kv,
	}, 0); err != nil {
		t.Fatal(err)
	}
	if err := ctx.KVCacheGather(&flashmla.KVCacheGatherParams{
		Layout: flashmla.LayoutV32, N: int64(n), DQK: 576, NumBlocks: pages, PageBlockSize: pageSize,
		B: b, MaxBlocksPerSeq: columns, KVCache: kv, BlockTable: blockTable,
		CuSeqlens: flashmla.Tensor{Data: flashmla.HostPtr(&pins, cu)}, Rows: flashmla.Tensor{Data: flashmla.HostPtr(&pins, back)},
	}, 0); err != nil {
		t.Fatal(err)
	}
	for i, x := range back {
		// Half a step of e4m3, which has 3 bits of mantissa, and what is subnormal beside the group's largest.
		want := float(rows[i])
		if difference := float(x) - want; !(difference*difference <= want*want/256+1e-6) || i%576 >= 512 && x != rows[i] {
			t.Fatalf("row %d, column %d: %g, stored %g", i/576, i%576, float(x), want)
		}
	}

	// Positions as an indexer gives them: some past the end, one negative.
	positions := make([]int32, b*topk)
	for i := range positions {
		positions[i] = r.Int32N(lens[i/topk] + 5)
	}
	positions[2] = -1
	indices := make([]int32, b*topk)
	if err := ctx.MapIndices(&flashmla.MapIndicesParams{
		B: b, SQ: 1, TopK: topk, NumBlocks: pages, PageBlockSize: pageSize, MaxBlocksPerSeq: columns,
		Positions: flashmla.Tensor{Data: flashmla.HostPtr(&pins, positions)}, BlockTable: blockTable, CacheSeqlens: seqlens,
		Indices: flashmla.Tensor{Data: flashmla.HostPtr(&pins, indices)},
	}, 0); err != nil {
		t.Fatal(err)
	}
	attended := make([][][]uint16, b)
	for i := range b {
		for k := i * topk; k < (i+1)*topk; k++ {
			want := int32(-1)
			if j := positions[k]; j >= 0 && j < lens[i] {
				want = slot(i, int(j))
				at := (int(cu[i]) + int(j)) * 576
				attended[i] = append(attended[i], back[at:at+576])
			}
			if indices[k] != want {
				t.Errorf("request %d, position %d: index %d, want %d", i, positions[k], indices[k], want)
			}
		}
	}

	q, out := flashmla.MakeHost[uint16](b*heads*576), flashmla.MakeHost[uint16](b*heads*512)
	random(r, q)
	lse := make([]float32, b*heads)
	sparse := flashmla.SparseDecodeParams{
		Layout: flashmla.LayoutV32, B: b, SQ: 1, HQ: heads, DQK: 576, NumBlocks: pages, PageBlockSize: pageSize, TopK: topk,
		Q: flashmla.Tensor{Data: flashmla.HostPtr(&pins, q)}, KVCache: kv,
		Indices: flashmla.Tensor{Data: flashmla.HostPtr(&pins, indices)},
		Out:     flashmla.Tensor{Data: flashmla.HostPtr(&pins, out)}, LSE: flashmla.Tensor{Data: flashmla.HostPtr(&pins, lse)},
	}
	if info, err := ctx.SparseDecodeQuery(&sparse); err != nil || !strings.Contains(info.Name, "sparse_decode") {
		t.Errorf("%+v, %v", info, err)
	}
	for _, size := range []func(*flashmla.SparseDecodeParams) (uint64, error){
		ctx.SparseDecodePlanSize, ctx.SparseDecodeWorkspaceSize,
	} {
		if n, err := size(&sparse); n != 0 || err != nil {
			t.Errorf("the CPU wants %d bytes, %v", n, err)
		}
	}
	var plan flashmla.Plan
	failure(t, ctx.SparseDecode(&sparse, &plan, 0), "SparseDecode", flashmla.ErrPlanMismatch, "plan.fingerprint = 0")
	if err := ctx.SparseDecodePlan(&sparse, &plan, 0); err != nil || !plan.Made() {
		t.Fatal(err)
	}
	if err := ctx.SparseDecode(&sparse, &plan, 0); err != nil {
		t.Fatal(err)
	}
	check := func(what string, rows [][][]uint16) {
		t.Helper()
		for row := range b * heads {
			want, _, wantLSE := attend(q[row*576:(row+1)*576], rows[row/heads])
			sameRow(t, what, out[row*512:(row+1)*512], want)
			sameLSE(t, what, lse[row], wantLSE)
		}
	}
	check("sparse decode", attended)

	// Dense decode reads the same pages.
	all := make([][][]uint16, b)
	for i := range b {
		all[i] = slices.Collect(slices.Chunk(back[cu[i]*576:cu[i+1]*576], 576))
	}
	dense := flashmla.DenseDecodeParams{
		B: b, SQ: 1, HQ: heads, HKV: 1, DQK: 576, NumBlocks: pages, PageBlockSize: pageSize, MaxBlocksPerSeq: columns,
		Q: sparse.Q, KVCache: kv, BlockTable: blockTable, CacheSeqlens: seqlens, Out: sparse.Out, LSE: sparse.LSE,
		KVLayout: flashmla.LayoutV32,
	}
	if err := ctx.DenseDecodePlan(&dense, &plan, 0); err != nil {
		t.Fatal(err)
	}
	if err := ctx.DenseDecode(&dense, &plan, 0); err != nil {
		t.Fatal(err)
	}
	check("dense decode of FP8 pages", all)
}

func TestWrongLatentCache(t *testing.T) {
	ctx := open(t, flashmla.CPU, nil)
	sparse := flashmla.SparseDecodeParams{Layout: flashmla.LayoutV32, B: 1, SQ: 1, HQ: 1, DQK: 512, NumBlocks: 1, PageBlockSize: 64}
	plan := flashmla.Plan{}
	failure(t, ctx.SparseDecode(&sparse, &plan, 0), "SparseDecode", flashmla.ErrInvalidShape, "d_qk = 512: must be 576")
	failure(t, ctx.SparseDecodePlan(&sparse, &plan, 0), "SparseDecodePlan", flashmla.ErrInvalidShape, "d_qk = 512: must be 576")
	sparse.Layout = 9
	_, err := ctx.SparseDecodeQuery(&sparse)
	failure(t, err, "SparseDecodeQuery", flashmla.ErrUnknownEnum, "layout = 9")
	_, err = ctx.SparseDecodePlanSize(nil)
	failure(t, err, "SparseDecodePlanSize", flashmla.ErrNullPointer, "params = NULL")
	_, err = ctx.SparseDecodeWorkspaceSize(nil)
	failure(t, err, "SparseDecodeWorkspaceSize", flashmla.ErrNullPointer, "params = NULL")
	failure(t, ctx.SparseDecode(nil, &plan, 0), "SparseDecode", flashmla.ErrNullPointer, "params = NULL")
	failure(t, ctx.SparseDecodePlan(nil, &plan, 0), "SparseDecodePlan", flashmla.ErrNullPointer, "params = NULL")

	rows := flashmla.KVCacheAppendParams{Layout: flashmla.LayoutV4, ScaleRule: flashmla.ScaleExact, N: 1, DQK: 512, PageBlockSize: 64}
	failure(t, ctx.KVCacheAppend(&rows, 0), "KVCacheAppend", flashmla.ErrInvalidArgument, "scale_rule = ")
	failure(t, ctx.KVCacheAppend(nil, 0), "KVCacheAppend", flashmla.ErrNullPointer, "params = NULL")
	failure(t, ctx.KVCacheGather(nil, 0), "KVCacheGather", flashmla.ErrNullPointer, "params = NULL")
	failure(t, ctx.KVCacheGather(&flashmla.KVCacheGatherParams{}, 7), "KVCacheGather", flashmla.ErrInvalidShape, "page_block_size = 0")
	failure(t, ctx.MapIndices(nil, 0), "MapIndices", flashmla.ErrNullPointer, "params = NULL")
	failure(t, ctx.MapIndices(&flashmla.MapIndicesParams{B: -1, PageBlockSize: 64}, 0), "MapIndices", flashmla.ErrInvalidShape, "b = -1")
}

// Keys go into an FP8 cache, and a query attends to two of them.
func ExampleContext_SparseDecode() {
	ctx, err := flashmla.Open(flashmla.CPU, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer ctx.Close()

	const heads, page, tokenBytes = 8, 64, 656
	var pins runtime.Pinner
	defer pins.Unpin()
	cache := flashmla.Tensor{Data: flashmla.HostPtr(&pins, flashmla.MakeHost[uint8](page*tokenBytes))}
	lse := make([]float32, heads)

	// Three rows of zeros, into slots 5, 6 and 40.
	if err := ctx.KVCacheAppend(&flashmla.KVCacheAppendParams{
		Layout: flashmla.LayoutV32, N: 3, DQK: 576, NumBlocks: 1, PageBlockSize: page,
		Rows:        flashmla.Tensor{Data: flashmla.HostPtr(&pins, flashmla.MakeHost[uint16](3*576))},
		SlotMapping: flashmla.Tensor{Data: flashmla.HostPtr(&pins, []int32{5, 6, 40})},
		KVCache:     cache,
	}, 0); err != nil {
		log.Fatal(err)
	}
	params := flashmla.SparseDecodeParams{
		Layout: flashmla.LayoutV32, B: 1, SQ: 1, HQ: heads, DQK: 576, NumBlocks: 1, PageBlockSize: page, TopK: 4,
		Q:       flashmla.Tensor{Data: flashmla.HostPtr(&pins, flashmla.MakeHost[uint16](heads*576))},
		KVCache: cache,
		Indices: flashmla.Tensor{Data: flashmla.HostPtr(&pins, []int32{40, 5, -1, -1})}, // -1: masked
		Out:     flashmla.Tensor{Data: flashmla.HostPtr(&pins, flashmla.MakeHost[uint16](heads*512))},
		LSE:     flashmla.Tensor{Data: flashmla.HostPtr(&pins, lse)},
	}
	var plan flashmla.Plan
	if err := ctx.SparseDecodePlan(&params, &plan, 0); err != nil { // once a step
		log.Fatal(err)
	}
	if err := ctx.SparseDecode(&params, &plan, 0); err != nil { // once a layer
		log.Fatal(err)
	}
	fmt.Printf("%.4f\n", lse[0]) // ln(2)
	// Output: 0.6931
}
