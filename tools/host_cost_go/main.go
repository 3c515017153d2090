// What a call costs the host through Go: nanoseconds of dense decode through package flashmla and through C, in turns in
// one process, on the GPU where there is one (the launch included, the kernel not), and of the CPU backend's checks
// otherwise. host_cost.cpp does the same for C++.
package main

/*
#cgo !flashmla_by_hand pkg-config: flashmla
#cgo LDFLAGS: -ldl
#include "loop.h"
#include <stdio.h>

static device *open_here(void) {
    device *d = device_open();
    return fflush(stdout), d; // Go does not when it ends
}
*/
import "C"

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"time"
	"unsafe"

	"flashmla"
)

// Calls between two synchronisations are fewer than a stream queues, so that none waits for the GPU.
const rounds, calls = 201, 200

func main() {
	// The driver's calls for memory look at the thread; those of flashmla don't.
	runtime.LockOSThread()
	d := C.open_here()
	if d == nil {
		os.Exit(1)
	}
	ordinal := flashmla.CPU
	if C.device_is_gpu(d) != 0 {
		ordinal = 0
	}
	ctx, err := flashmla.Open(ordinal, nil)
	if err == nil {
		err = measure(d, ctx, 1)
	}
	if err == nil && ordinal != flashmla.CPU {
		err = measure(d, ctx, 64)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	C.device_close(d)
}

func measure(d *C.device, ctx *flashmla.Context, pages int) error {
	problem := C.problem_make(d, C.int(pages))
	defer C.problem_free(d, problem)
	// The same parameters and memory; the plan is made for a context, and so made again.
	c := &problem.params
	p := flashmla.DenseDecodeParams{
		B: int64(c.b), SQ: int64(c.s_q), HQ: int64(c.h_q), HKV: int64(c.h_kv), DQK: int64(c.d_qk),
		NumBlocks: int64(c.num_blocks), PageBlockSize: int64(c.page_block_size), MaxBlocksPerSeq: int64(c.max_blocks_per_seq),
		Q: tensor(c.q.data), KVCache: tensor(c.kv_cache.data), BlockTable: tensor(c.block_table.data),
		CacheSeqlens: tensor(c.cache_seqlens.data), Out: tensor(c.out.data),
		Workspace: flashmla.DevicePtr(c.workspace), WorkspaceSize: uint64(c.workspace_size),
	}
	plan := flashmla.Plan{Data: flashmla.DevicePtr(problem.plan.data), Size: uint64(problem.plan.size)}
	stream := flashmla.Stream(unsafe.Pointer(C.device_stream(d)))
	if err := ctx.DenseDecodePlan(&p, &plan, stream); err != nil {
		return err
	}
	var throughC, throughGo [rounds]float64
	for i := range rounds {
		throughC[i] = float64(C.problem_run(d, problem, calls))
		C.device_synchronize(d)
		began := time.Now()
		for range calls {
			if err := ctx.DenseDecode(&p, &plan, stream); err != nil {
				return err
			}
		}
		throughGo[i] = float64(time.Since(began).Nanoseconds()) / calls
	}
	slices.Sort(throughC[:])
	slices.Sort(throughGo[:])
	what := "two kernels"
	if C.device_is_gpu(d) == 0 {
		what = "no kernel"
	} else if p.WorkspaceSize == 0 {
		what = "one kernel"
	}
	fmt.Printf("host cost of a call of %s: C %.0f ns, Go %.0f ns (medians of %d rounds of %d calls)\n", what,
		throughC[rounds/2], throughGo[rounds/2], rounds, calls)
	return nil
}

func tensor(data unsafe.Pointer) flashmla.Tensor {
	return flashmla.Tensor{Data: flashmla.DevicePtr(data)}
}
