package flashmla_test

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"sync"
	"testing"
	"time"

	"flashmla"
)

// grow moves the goroutine's stack, and everything on it, before the call.
//
//go:noinline
func grow(depth int, call func() error) error {
	var room [256]byte
	room[depth%256] = 1
	if depth > 0 {
		err := grow(depth-1, call)
		runtime.KeepAlive(&room)
		return err
	}
	return call()
}

// Many goroutines on few threads, calls that succeed and calls that fail, while the garbage collector runs without
// pause: results are right, and every message is that of its own call.
func TestStressUnderGC(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(1))
	duration := 2 * time.Second
	if testing.Short() {
		duration = 300 * time.Millisecond
	}
	ctx := open(t, flashmla.CPU, &flashmla.Options{CPUThreads: 1})
	stop := make(chan struct{})
	var collector, workers sync.WaitGroup
	spawn(&collector, func() {
		for {
			select {
			case <-stop:
				return
			default:
				runtime.GC()
			}
		}
	})
	end := time.Now().Add(duration)
	for i := range 32 {
		spawn(&workers, func() {
			for round := 0; time.Now().Before(end) && !t.Failed(); round++ {
				// New memory every time: what is pinned stays, what is garbage is overwritten.
				d := newDecode(uint64(i*1000+round), int32(i%5), int32(i))
				wrong := d.params
				wrong.HQ = int64(100 + i)
				wrong.HKV = int64(1000 + round)
				err := grow(round%50, func() error { return ctx.DenseDecode(&wrong, &d.plan, 0) })
				failure(t, err, "DenseDecode", flashmla.ErrInvalidShape,
					fmt.Sprintf("h_q = %d: must be a multiple of h_kv = %d", 100+i, 1000+round))
				runtime.Gosched()
				if err := grow(round%70, func() error { return ctx.DenseDecodePlan(&d.params, &d.plan, 0) }); err != nil {
					t.Error(err)
				}
				if err := grow(round%30, func() error { return ctx.DenseDecode(&d.params, &d.plan, 0) }); err != nil {
					t.Error(err)
				}
				d.right(t, fmt.Sprintf("goroutine %d, round %d", i, round))
				d.free()
			}
		})
	}
	workers.Wait()
	close(stop)
	collector.Wait()
}
