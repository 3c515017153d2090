//! A plan and a run take nothing from the heap.

use super::api::{self, use_fake_kernels};
use super::process::{alone, Driver};
use flashmla::gpu::GpuDevice;
use flashmla::problem::dense_decode::{DenseDecode, Raw, FLAG_BATCH_INVARIANT};
use flashmla::problem::tensor::RawTensor;
use flashmla::schedule::Grid;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: the system's allocator, and a counter that allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        System.alloc(layout)
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        System.dealloc(pointer, layout)
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

pub fn allocations(body: impl FnOnce()) -> usize {
    let before = ALLOCATIONS.get();
    body();
    ALLOCATIONS.get() - before
}

#[test]
fn none_in_plan_and_run() {
    alone(Driver::Whole, &[], || {
        use_fake_kernels();
        let device = GpuDevice::new(0).unwrap();
        let tensor = |addr| RawTensor { addr, strides: [0; 4] };
        for flags in [0, FLAG_BATCH_INVARIANT] {
            let raw = Raw {
                flags,
                b: 128,
                s_q: 2,
                h_q: 128,
                h_kv: 1,
                d_qk: 576,
                num_blocks: 1000,
                page_block_size: 64,
                max_blocks_per_seq: 64,
                q: tensor(api::Q),
                kv_cache: tensor(api::KV_CACHE),
                block_table: tensor(api::BLOCK_TABLE),
                cache_seqlens: tensor(api::CACHE_SEQLENS),
                out: tensor(api::OUT),
                lse: tensor(api::LSE),
                workspace: api::WORKSPACE,
                workspace_size: 1 << 40,
                ..Default::default()
            };
            let problem = DenseDecode::check(&raw).unwrap();
            let in_plan = allocations(|| {
                device.dense_decode_plan(&problem.shape, &problem.cache_seqlens, api::PLAN, 0).unwrap();
            });
            let grid = Grid::new(&problem.shape, device.multiprocessors());
            let in_run = allocations(|| device.dense_decode(&problem, &grid, api::PLAN, 0).unwrap());
            assert_eq!((in_plan, in_run), (0, 0));
        }
        // The counter counts.
        assert_eq!(allocations(|| drop(std::hint::black_box(Box::new(1)))), 1);
    });
}
