package flashmla_test

import (
	"math"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"

	"flashmla"
)

// open gives a context that the test closes.
func open(t testing.TB, device int, options *flashmla.Options) *flashmla.Context {
	t.Helper()
	ctx, err := flashmla.Open(device, options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ctx.Close(); err != nil {
			t.Error(err)
		}
	})
	return ctx
}

// spawn is WaitGroup.Go, for Go 1.24.
func spawn(group *sync.WaitGroup, f func()) {
	group.Add(1)
	go func() {
		defer group.Done()
		f()
	}()
}

func bf16(x float32) uint16 {
	bits := math.Float32bits(x)
	return uint16((bits + 0x7fff + bits>>16&1) >> 16)
}

func float(x uint16) float64 { return float64(math.Float32frombits(uint32(x) << 16)) }

func random(r *rand.Rand, to []uint16) {
	for i := range to {
		to[i] = bf16(r.Float32()*0.6 - 0.3)
	}
}

// attend is one query row against rows of 576, in double precision.
func attend(q []uint16, rows [][]uint16) (out [512]float64, maximum, lse float64) {
	logits := make([]float64, len(rows))
	maximum = math.Inf(-1)
	for i, row := range rows {
		for j := range q {
			logits[i] += float(q[j]) * float(row[j])
		}
		logits[i] /= math.Sqrt(float64(len(q)))
		maximum = max(maximum, logits[i])
	}
	if len(rows) == 0 {
		return out, maximum, maximum
	}
	sum := 0.0
	for i, row := range rows {
		weight := math.Exp(logits[i] - maximum)
		sum += weight
		for j := range out {
			out[j] += weight * float(row[j])
		}
	}
	for j := range out {
		out[j] /= sum
	}
	return out, maximum, maximum + math.Log(sum)
}

// The bounds of the library's own tests.
func sameRow(t *testing.T, what string, got []uint16, want [512]float64) {
	t.Helper()
	for i, x := range want {
		if !(math.Abs(float(got[i])-x) <= 8e-4+2.01/128*math.Abs(x)) {
			t.Errorf("%s: out[%d] = %g, want %g", what, i, float(got[i]), x)
			return
		}
	}
}

func sameLSE(t *testing.T, what string, got float32, want float64) {
	t.Helper()
	if math.IsInf(want, -1) && math.IsInf(float64(got), -1) {
		return
	}
	if !(math.Abs(float64(got)-want) <= 1e-6+8.01/65536*math.Abs(want)) {
		t.Errorf("%s: lse = %g, want %g", what, got, want)
	}
}

// A decode is a small problem in host memory, pinned while the test runs.
type decode struct {
	pins          runtime.Pinner
	params        flashmla.DenseDecodeParams
	plan          flashmla.Plan
	q, cache, out []uint16
	table, lens   []int32
	lse           []float32
}

const (
	heads    = 4
	pageSize = 16
)

func newDecode(seed uint64, lens ...int32) *decode {
	r := rand.New(rand.NewPCG(seed, 1))
	b, longest := len(lens), int32(1)
	for _, n := range lens {
		longest = max(longest, n)
	}
	columns := int(longest+pageSize-1) / pageSize
	pages := b * columns
	d := &decode{
		q:     flashmla.MakeHost[uint16](b * heads * 576),
		cache: flashmla.MakeHost[uint16](pages * pageSize * 576),
		out:   flashmla.MakeHost[uint16](b * heads * 512),
		table: make([]int32, pages),
		lens:  lens,
		lse:   make([]float32, b*heads),
	}
	random(r, d.q)
	random(r, d.cache)
	for i, page := range r.Perm(pages) {
		d.table[i] = int32(page)
	}
	d.params = flashmla.DenseDecodeParams{
		B: int64(b), SQ: 1, HQ: heads, HKV: 1, DQK: 576,
		NumBlocks: int64(pages), PageBlockSize: pageSize, MaxBlocksPerSeq: int64(columns),
		Q:            flashmla.Tensor{Data: flashmla.HostPtr(&d.pins, d.q)},
		KVCache:      flashmla.Tensor{Data: flashmla.HostPtr(&d.pins, d.cache)},
		BlockTable:   flashmla.Tensor{Data: flashmla.HostPtr(&d.pins, d.table)},
		CacheSeqlens: flashmla.Tensor{Data: flashmla.HostPtr(&d.pins, d.lens)},
		Out:          flashmla.Tensor{Data: flashmla.HostPtr(&d.pins, d.out)},
		LSE:          flashmla.Tensor{Data: flashmla.HostPtr(&d.pins, d.lse)},
	}
	d.clear()
	return d
}

func (d *decode) free() { d.pins.Unpin() }

// clear puts into the outputs what no call writes.
func (d *decode) clear() {
	for i := range d.out {
		d.out[i] = 0x7fc1
	}
	for i := range d.lse {
		d.lse[i] = -12345
	}
}

func (d *decode) untouched(t *testing.T) {
	t.Helper()
	for _, x := range d.out {
		if x != 0x7fc1 {
			t.Error("out was written")
			return
		}
	}
	for _, x := range d.lse {
		if x != -12345 {
			t.Error("lse was written")
			return
		}
	}
}

func (d *decode) right(t *testing.T, what string) {
	t.Helper()
	columns := int(d.params.MaxBlocksPerSeq)
	for i := range d.lens {
		var rows [][]uint16
		for k := range int(d.lens[i]) {
			at := (int(d.table[i*columns+k/pageSize])*pageSize + k%pageSize) * 576
			rows = append(rows, d.cache[at:at+576])
		}
		for h := range heads {
			row := i*heads + h
			out, _, lse := attend(d.q[row*576:(row+1)*576], rows)
			sameRow(t, what, d.out[row*512:(row+1)*512], out)
			sameLSE(t, what, d.lse[row], lse)
		}
	}
}
