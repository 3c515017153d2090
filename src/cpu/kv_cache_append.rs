//! Append on the CPU: rows are quantised in blocks, by any thread, and stored by the calling one in their
//! order.

use super::page::{quantize, Quantized};
use super::share::share;
use super::CpuDevice;
use crate::problem::kv_cache_append::KvCacheAppend;
use crate::problem::layout::Layout;

/// Rows of an item.
const ROWS: i64 = 64;

/// Slots of either type.
#[derive(Clone, Copy)]
pub enum Slots<'a> {
    Int32(&'a [i32]),
    Int64(&'a [i64]),
}

/// The inputs, each slice as long as its tensor's extent; elements by the problem's strides.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    /// BF16 bits.
    pub rows: &'a [u16],
    pub slots: Slots<'a>,
}

/// What goes where in the cache, in bytes from its address.
pub struct Write {
    pub offset: i64,
    pub bytes: Vec<u8>,
}

/// Hands everything that is to be written to `store`, on the calling thread.
pub fn run(device: &CpuDevice, problem: &KvCacheAppend, inputs: Inputs, mut store: impl FnMut(&Write)) {
    let items = (problem.n + ROWS - 1) / ROWS;
    share(
        device.threads(),
        items as usize,
        || (),
        |(), item| {
            let first = item as i64 * ROWS;
            (first..problem.n.min(first + ROWS)).flat_map(|row| writes(problem, &inputs, row)).collect::<Vec<_>>()
        },
        |writes| writes.iter().for_each(&mut store),
    );
}

fn writes(problem: &KvCacheAppend, inputs: &Inputs, row: i64) -> Vec<Write> {
    let at = problem.slot_mapping.offset([row]) as usize;
    let slot = match inputs.slots {
        Slots::Int32(slots) => slots[at] as i64,
        Slots::Int64(slots) => slots[at],
    };
    let page_block_size = problem.page_block_size;
    if !(0..problem.num_blocks * page_block_size).contains(&slot) {
        return Vec::new();
    }
    let (page, i) = (slot / page_block_size, slot % page_block_size);
    let page = page * problem.kv_cache.page_stride;
    let from = problem.rows.offset([row, 0]) as usize;
    let row = &inputs.rows[from..from + problem.d_qk as usize];
    let (data, scale_row) = problem.layout.token_offsets(page_block_size, i);
    if problem.layout == Layout::Plain {
        let bytes = row.iter().flat_map(|x| x.to_ne_bytes()).collect();
        return vec![Write { offset: page + i * problem.kv_cache.row_stride, bytes }];
    }
    let Quantized { codes, scales, rope } = quantize(problem.layout, problem.scale_rule, row);
    match problem.layout {
        Layout::V4 => vec![
            Write { offset: page + data, bytes: [codes, rope].concat() },
            Write { offset: page + scale_row, bytes: scales },
        ],
        _ => vec![Write { offset: page + data, bytes: [codes, scales, rope].concat() }],
    }
}
