package flashmla_test

import (
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"

	"flashmla"
)

func TestDenseDecode(t *testing.T) {
	ctx := open(t, flashmla.CPU, nil)
	d := newDecode(3, 1, 0, 70, 16, 33)
	defer d.free()
	info, err := ctx.DenseDecodeQuery(&d.params)
	if err != nil || !strings.Contains(info.Name, "dense_decode") {
		t.Errorf("%+v, %v", info, err)
	}
	for _, size := range []func(*flashmla.DenseDecodeParams) (uint64, error){
		ctx.DenseDecodePlanSize, ctx.DenseDecodeWorkspaceSize,
	} {
		if n, err := size(&d.params); n != 0 || err != nil {
			t.Errorf("the CPU wants %d bytes, %v", n, err)
		}
	}
	if err := ctx.DenseDecodePlan(&d.params, &d.plan, 0); err != nil {
		t.Fatal(err)
	}
	// A plan serves every layer, copies of it too.
	plan := d.plan
	for range 3 {
		d.clear()
		if err := ctx.DenseDecode(&d.params, &plan, 0); err != nil {
			t.Fatal(err)
		}
		d.right(t, "dense decode")
	}
}

func TestSparsePrefill(t *testing.T) {
	const sq, skv, topk = 5, 40, 6
	ctx := open(t, flashmla.CPU, nil)
	r := rand.New(rand.NewPCG(4, 1))
	q, kv := flashmla.MakeHost[uint16](sq*heads*576), flashmla.MakeHost[uint16](skv*576)
	out := flashmla.MakeHost[uint16](sq * heads * 512)
	random(r, q)
	random(r, kv)
	indices := make([]int32, sq*topk)
	for i := range indices {
		indices[i] = r.Int32N(skv)
	}
	indices[0], indices[7], indices[13] = -1, skv, math.MaxInt32
	lengths := []int32{topk, topk, 0, 4, 99}
	maxLogits, lse := make([]float32, sq*heads), make([]float32, sq*heads)
	sink := []float32{float32(math.Inf(-1)), 0.5, 0.5, float32(math.Inf(1))}

	var pins runtime.Pinner
	defer pins.Unpin()
	p := flashmla.SparsePrefillParams{
		SQ: sq, HQ: heads, SKV: skv, DQK: 576, TopK: topk,
		Q:          flashmla.Tensor{Data: flashmla.HostPtr(&pins, q)},
		KV:         flashmla.Tensor{Data: flashmla.HostPtr(&pins, kv)},
		Indices:    flashmla.Tensor{Data: flashmla.HostPtr(&pins, indices)},
		TopKLength: flashmla.Tensor{Data: flashmla.HostPtr(&pins, lengths)},
		AttnSink:   flashmla.Tensor{Data: flashmla.HostPtr(&pins, sink)},
		Out:        flashmla.Tensor{Data: flashmla.HostPtr(&pins, out)},
		MaxLogits:  flashmla.Tensor{Data: flashmla.HostPtr(&pins, maxLogits)},
		LSE:        flashmla.Tensor{Data: flashmla.HostPtr(&pins, lse)},
	}
	if info, err := ctx.SparsePrefillQuery(&p); err != nil || !strings.Contains(info.Name, "sparse_prefill") {
		t.Errorf("%+v, %v", info, err)
	}
	if n, err := ctx.SparsePrefillWorkspaceSize(&p); n != 0 || err != nil {
		t.Errorf("the CPU wants %d bytes, %v", n, err)
	}
	if err := ctx.SparsePrefill(&p, 0); err != nil {
		t.Fatal(err)
	}
	for i := range sq {
		var rows [][]uint16
		for _, index := range indices[i*topk : i*topk+min(topk, int(lengths[i]))] {
			if index >= 0 && index < skv {
				rows = append(rows, kv[index*576:(index+1)*576])
			}
		}
		for h := range heads {
			row := i*heads + h
			want, maximum, wantLSE := attend(q[row*576:(row+1)*576], rows)
			for j := range want {
				if len(rows) > 0 {
					want[j] /= 1 + math.Exp(float64(sink[h])-wantLSE)
				}
			}
			sameRow(t, "sparse prefill", out[row*512:(row+1)*512], want)
			sameLSE(t, "sparse prefill", lse[row], wantLSE)
			sameLSE(t, "sparse prefill, maximum", maxLogits[row], maximum)
		}
	}
}

func TestHostMemory(t *testing.T) {
	var pins runtime.Pinner
	defer pins.Unpin()
	for n := range 70 {
		slice := flashmla.MakeHost[float32](n)
		if len(slice) != n || slices.ContainsFunc(slice, func(x float32) bool { return x != 0 }) {
			t.Errorf("%d elements: %v", n, slice)
		}
		address := flashmla.HostPtr(&pins, slice)
		if address%flashmla.HostAlignment != 0 || (address == 0) != (n == 0) {
			t.Errorf("%d elements lie at %#x", n, address)
		}
	}
	if flashmla.HostPtr[uint16](&pins, nil) != 0 || flashmla.HostPtr(&pins, make([]uint16, 0, 8)) != 0 {
		t.Error("nothing has an address")
	}
}

// Parameters and plans may lie in structs that hold pointers of Go, which the cgo checks would find.
func TestInsideOtherStructs(t *testing.T) {
	ctx := open(t, flashmla.CPU, nil)
	type layer struct {
		name   *string
		params flashmla.DenseDecodeParams
		plan   flashmla.Plan
		rest   []*string
	}
	d := newDecode(5, 3)
	defer d.free()
	name := "layer"
	l := &layer{name: &name, params: d.params, rest: []*string{&name}}
	if err := ctx.DenseDecodePlan(&l.params, &l.plan, 0); err != nil {
		t.Fatal(err)
	}
	if err := ctx.DenseDecode(&l.params, &l.plan, 0); err != nil {
		t.Fatal(err)
	}
	d.right(t, *l.name)
	runtime.KeepAlive(l)
}

// Nothing of a call that succeeds is for the garbage collector.
func TestCallsDoNotAllocate(t *testing.T) {
	ctx := open(t, flashmla.CPU, &flashmla.Options{CPUThreads: 1})
	d := newDecode(6)
	defer d.free()
	if d.params.B != 0 {
		t.Fatal("a batch of no request costs the least")
	}
	for name, call := range map[string]func() error{
		"plan": func() error { return ctx.DenseDecodePlan(&d.params, &d.plan, 0) },
		"run": func() error {
			if err := ctx.DenseDecodePlan(&d.params, &d.plan, 0); err != nil {
				return err
			}
			return ctx.DenseDecode(&d.params, &d.plan, 0)
		},
		"size": func() error { _, err := ctx.DenseDecodeWorkspaceSize(&d.params); return err },
		"prefill": func() error {
			return ctx.SparsePrefill(&flashmla.SparsePrefillParams{HQ: 1, DQK: 576}, 0)
		},
		"append": func() error {
			return ctx.KVCacheAppend(&flashmla.KVCacheAppendParams{DQK: 576, PageBlockSize: 64}, 0)
		},
		"gather": func() error {
			return ctx.KVCacheGather(&flashmla.KVCacheGatherParams{DQK: 576, PageBlockSize: 64}, 0)
		},
		"map": func() error { return ctx.MapIndices(&flashmla.MapIndicesParams{PageBlockSize: 64}, 0) },
		"sparse": func() error {
			var plan flashmla.Plan
			p := flashmla.SparseDecodeParams{Layout: flashmla.LayoutV4, HQ: 1, DQK: 512, PageBlockSize: 64}
			if err := ctx.SparseDecodePlan(&p, &plan, 0); err != nil {
				return err
			}
			return ctx.SparseDecode(&p, &plan, 0)
		},
	} {
		var err error
		if n := testing.AllocsPerRun(100, func() { err = call() }); n != 0 || err != nil {
			t.Errorf("%s: %g allocations, %v", name, n, err)
		}
	}
}
