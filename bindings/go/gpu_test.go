package flashmla_test

import (
	"errors"
	"os"
	"sync"
	"testing"

	"flashmla"
)

// gpu opens device 0, or skips, unless somebody has said that there is one.
func gpu(t *testing.T) *flashmla.Context {
	t.Helper()
	ctx, err := flashmla.Open(0, nil)
	noGPU := errors.Is(err, flashmla.EnvironmentError) || errors.Is(err, flashmla.UnsupportedError)
	if noGPU && os.Getenv("FLASHMLA_REQUIRE_GPU") == "" {
		t.Skip(err)
	}
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

var onGPU = flashmla.DenseDecodeParams{
	B: 64, SQ: 1, HQ: 128, HKV: 1, DQK: 576, NumBlocks: 4096, PageBlockSize: 64, MaxBlocksPerSeq: 64,
}

func TestGPU(t *testing.T) {
	ctx := gpu(t)
	info, err := ctx.DeviceInfo()
	if err != nil || info.Device != 0 || info.ComputeCapability < 90 || info.Multiprocessors < 1 || info.DriverVersion < 12000 {
		t.Errorf("%+v, %v", info, err)
	}
	kernel, err := ctx.DenseDecodeQuery(&onGPU)
	if err != nil || kernel.Name == "" || kernel.ThreadBlocks < 1 || kernel.ClusterSize < 1 || kernel.Partitions < 1 {
		t.Errorf("%+v, %v", kernel, err)
	}
	plan, err := ctx.DenseDecodePlanSize(&onGPU)
	if err != nil || plan == 0 {
		t.Errorf("plan: %d bytes, %v", plan, err)
	}
	workspace, err := ctx.DenseDecodeWorkspaceSize(&onGPU)
	if err != nil || workspace == 0 {
		t.Errorf("workspace: %d bytes, %v", workspace, err)
	}
	// Refused before anything is launched: the addresses need not be real.
	p := onGPU
	p.CacheSeqlens.Data = 0x1000
	failure(t, ctx.DenseDecodePlan(&p, &flashmla.Plan{Data: 0x1000, Size: 1}, 0), "DenseDecodePlan",
		flashmla.ErrBufferTooSmall, "plan.size = 1")
	failure(t, ctx.DenseDecodePlan(&p, &flashmla.Plan{Data: 0x1001, Size: plan}, 0), "DenseDecodePlan",
		flashmla.ErrMisaligned, "plan.data")
}

// fake is a context of tests/fake_driver, which launches nothing: any address will do.
func fake(t *testing.T) *flashmla.Context {
	t.Helper()
	if os.Getenv("FLASHMLA_FAKE_DRIVER") == "" {
		t.Skip("for the fake driver alone")
	}
	return gpu(t)
}

func onFake(t *testing.T, ctx *flashmla.Context) (flashmla.DenseDecodeParams, flashmla.Plan) {
	t.Helper()
	p := onGPU
	for i, tensor := range []*flashmla.Tensor{&p.Q, &p.KVCache, &p.BlockTable, &p.CacheSeqlens, &p.Out, &p.LSE} {
		tensor.Data = flashmla.DevicePtr(i+1) << 36
	}
	var err error
	plan := flashmla.Plan{Data: 7 << 36}
	if plan.Size, err = ctx.DenseDecodePlanSize(&p); err != nil {
		t.Fatal(err)
	}
	p.Workspace = 8 << 36
	if p.WorkspaceSize, err = ctx.DenseDecodeWorkspaceSize(&p); err != nil {
		t.Fatal(err)
	}
	return p, plan
}

// Launches from many goroutines, each wherever the scheduler puts it; and without a byte of garbage.
func TestFakeLaunches(t *testing.T) {
	ctx := fake(t)
	var all sync.WaitGroup
	for range 16 {
		spawn(&all, func() {
			p, plan := onFake(t, ctx)
			for range 200 {
				if err := ctx.DenseDecodePlan(&p, &plan, 0); err != nil {
					t.Error(err)
				}
				if err := ctx.DenseDecode(&p, &plan, 0); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	p, plan := onFake(t, ctx)
	if err := ctx.DenseDecodePlan(&p, &plan, 0); err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(100, func() { _ = ctx.DenseDecode(&p, &plan, 0) }); n != 0 {
		t.Errorf("%g allocations a call", n)
	}
}

// Run with FAKE_CUDA_FAIL: the driver's refusal arrives whole.
func TestFakeFailure(t *testing.T) {
	if os.Getenv("FAKE_CUDA_FAIL") == "" {
		t.Skip("for the fake driver alone, told to fail")
	}
	ctx := fake(t)
	p, plan := onFake(t, ctx)
	err := ctx.DenseDecodePlan(&p, &plan, 0)
	failure(t, err, "DenseDecodePlan", flashmla.ErrCUDA+700, "cuLaunchKernelEx")
	var status flashmla.Status
	if !errors.Is(err, flashmla.CUDAError) || !errors.Is(err, flashmla.ErrCUDA) || !errors.As(err, &status) ||
		status.CUDAResult() != 700 || plan.Made() {
		t.Errorf("%v", err)
	}
}
