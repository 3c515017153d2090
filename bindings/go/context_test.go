package flashmla_test

import (
	"errors"
	"math"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"flashmla"
)

func TestVersion(t *testing.T) {
	if flashmla.Version() != flashmla.HeaderVersion {
		t.Errorf("library %d, header %d", flashmla.Version(), flashmla.HeaderVersion)
	}
}

func TestOpen(t *testing.T) {
	ctx := open(t, flashmla.CPU, &flashmla.Options{CPUThreads: 2})
	info, err := ctx.DeviceInfo()
	if err != nil {
		t.Fatal(err)
	}
	if info.Name == "" || info.Device != flashmla.CPU || info.Multiprocessors != 2 || info.ComputeCapability != 0 {
		t.Errorf("%+v", info)
	}
}

func TestOpenRefuses(t *testing.T) {
	for _, c := range []struct {
		device, threads int
		want            flashmla.Status
		message         string
	}{
		{-7, 0, flashmla.ErrNoDevice, "device = -7"},
		{1 << 32, 0, flashmla.ErrNoDevice, "device = 4294967296"},
		{flashmla.CPU, -1, flashmla.ErrInvalidArgument, "cpu_threads = -1"},
		{flashmla.CPU, math.MaxInt, flashmla.ErrInvalidArgument, "CPUThreads = 9223372036854775807"},
	} {
		ctx, err := flashmla.Open(c.device, &flashmla.Options{CPUThreads: c.threads})
		if ctx != nil {
			t.Errorf("device %d, %d threads: opened", c.device, c.threads)
		}
		failure(t, err, "Open", c.want, c.message)
	}
}

// Nil, zero, closed: an error from every method, and nothing written.
func TestNoContext(t *testing.T) {
	closed, err := flashmla.Open(flashmla.CPU, nil)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := closed.Close(); err != nil {
			t.Error(err)
		}
	}
	d := newDecode(1, 3)
	defer d.free()
	prefill, sparse := flashmla.SparsePrefillParams{}, flashmla.SparseDecodeParams{}
	for name, ctx := range map[string]*flashmla.Context{"nil": nil, "zero": new(flashmla.Context), "closed": closed} {
		for op, call := range map[string]func() error{
			"DeviceInfo":                 func() error { _, err := ctx.DeviceInfo(); return err },
			"DenseDecodeQuery":           func() error { _, err := ctx.DenseDecodeQuery(&d.params); return err },
			"DenseDecodePlanSize":        func() error { _, err := ctx.DenseDecodePlanSize(&d.params); return err },
			"DenseDecodeWorkspaceSize":   func() error { _, err := ctx.DenseDecodeWorkspaceSize(&d.params); return err },
			"DenseDecodePlan":            func() error { return ctx.DenseDecodePlan(&d.params, &d.plan, 0) },
			"DenseDecode":                func() error { return ctx.DenseDecode(&d.params, &d.plan, 0) },
			"SparsePrefillQuery":         func() error { _, err := ctx.SparsePrefillQuery(&prefill); return err },
			"SparsePrefillWorkspaceSize": func() error { _, err := ctx.SparsePrefillWorkspaceSize(&prefill); return err },
			"SparsePrefill":              func() error { return ctx.SparsePrefill(&prefill, 0) },
			"SparseDecodeQuery":          func() error { _, err := ctx.SparseDecodeQuery(&sparse); return err },
			"SparseDecodePlanSize":       func() error { _, err := ctx.SparseDecodePlanSize(&sparse); return err },
			"SparseDecodeWorkspaceSize":  func() error { _, err := ctx.SparseDecodeWorkspaceSize(&sparse); return err },
			"SparseDecodePlan":           func() error { return ctx.SparseDecodePlan(&sparse, &d.plan, 0) },
			"SparseDecode":               func() error { return ctx.SparseDecode(&sparse, &d.plan, 0) },
			"KVCacheAppend":              func() error { return ctx.KVCacheAppend(nil, 0) },
			"KVCacheGather":              func() error { return ctx.KVCacheGather(nil, 0) },
			"MapIndices":                 func() error { return ctx.MapIndices(nil, 0) },
		} {
			err := call()
			if !errors.Is(err, flashmla.ErrClosed) {
				t.Errorf("%s context: %s: %v", name, op, err)
			}
			failure(t, err, op, flashmla.ErrNullPointer, "closed or nil")
		}
		if err := ctx.Close(); err != nil {
			t.Errorf("%s context: %v", name, err)
		}
	}
	d.untouched(t)
	if d.plan.Made() {
		t.Error("a plan was made")
	}
}

// Close from everywhere at once, while calls run: each call works or is told that the context is closed.
func TestCloseIsConcurrent(t *testing.T) {
	for range 20 {
		ctx, err := flashmla.Open(flashmla.CPU, &flashmla.Options{CPUThreads: 1})
		if err != nil {
			t.Fatal(err)
		}
		var all sync.WaitGroup
		var worked atomic.Int64
		for i := range 8 {
			spawn(&all, func() {
				d := newDecode(uint64(i), 5, 0)
				defer d.free()
				for {
					err := ctx.DenseDecodePlan(&d.params, &d.plan, 0)
					if err == nil {
						err = ctx.DenseDecode(&d.params, &d.plan, 0)
					}
					if errors.Is(err, flashmla.ErrClosed) {
						return
					}
					if err != nil {
						t.Error(err)
						return
					}
					d.right(t, "before the end")
					worked.Add(1)
				}
			})
		}
		for worked.Load() < 8 && !t.Failed() {
			time.Sleep(time.Millisecond)
		}
		for range 4 {
			spawn(&all, func() {
				if err := ctx.Close(); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
	}
}

// A context that nobody closes can be collected: its own cleanup does not hold it.
func TestForgottenContextsAreCollected(t *testing.T) {
	var collected atomic.Int64
	const n = 50
	for range n {
		ctx, err := flashmla.Open(flashmla.CPU, &flashmla.Options{CPUThreads: 1})
		if err != nil {
			t.Fatal(err)
		}
		runtime.AddCleanup(ctx, func(int) { collected.Add(1) }, 0)
	}
	for end := time.Now().Add(20 * time.Second); collected.Load() < n-1 && time.Now().Before(end); {
		runtime.GC()
		time.Sleep(time.Millisecond)
	}
	if collected.Load() < n-1 {
		t.Errorf("%d of %d were collected", collected.Load(), n)
	}
}
