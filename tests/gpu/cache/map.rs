//! Map indices against the definition.

use super::*;
use flashmla::capi::map_indices::*;

struct Case {
    b: i64,
    s_q: i64,
    topk: i64,
    page: i64,
    num_blocks: i64,
    columns: i64,
    with_lens: bool,
    in_place: bool,
    /// Gaps behind rows, and elements by which they miss 16 bytes.
    pad: i64,
    seed: u64,
}

fn check(session: &Session, case: &Case) {
    let Case { b, s_q, topk, page, num_blocks, columns, with_lens, in_place, pad, seed } = *case;
    let what = format!(
        "b={b} s_q={s_q} topk={topk} page={page} num_blocks={num_blocks} columns={columns} lens={with_lens} \
         in_place={in_place} pad={pad}"
    );
    let mut random = Random::new(seed);
    let room = columns * page;
    let pages = [-1, num_blocks as i32, i32::MAX, i32::MIN];
    let table: Vec<i32> = (0..b * columns)
        .map(|_| match random.below(9) {
            0 => random.pick(&pages),
            _ if num_blocks > 0 => random.below(num_blocks as u64) as i32,
            _ => 0,
        })
        .collect();
    let lens: Vec<i32> = (0..b)
        .map(|_| match random.below(5) {
            0 => random.pick(&[0, -1, i32::MIN, i32::MAX]),
            _ => random.below(room as u64 + 2) as i32,
        })
        .collect();
    let row = (topk + pad).max(1);
    let strides = [(s_q * row + pad).max(1), row, 1, 0];
    let extent = (b * strides[0] + s_q * row) as usize;
    let wild = [-1, i32::MIN, i32::MAX, room as i32, -5];
    let positions: Vec<i32> = (0..extent)
        .map(|_| match random.below(6) {
            0 => random.pick(&wild),
            _ => random.below(room as u64 + 1) as i32,
        })
        .collect();
    let shift = (pad as usize % 4) * 4;
    let from = Region::with(session.place(), Fence::Guarded, &positions, shift).unwrap();
    let to = Region::new(session.place(), Fence::Guarded, extent * 4, shift).unwrap();
    let (table_region, lens_region) = (region(session, &table), region(session, &spread(&lens, 2, 7)));
    // SAFETY: plain data, for which all 0 is a value.
    let mut params: flashmla_map_indices_params_t = unsafe { std::mem::zeroed() };
    params.struct_size = size_of_val(&params);
    (params.b, params.s_q, params.topk) = (b, s_q, topk);
    (params.num_blocks, params.page_block_size, params.max_blocks_per_seq) = (num_blocks, page, columns);
    params.positions = tensor(&from, strides);
    params.block_table = tensor(&table_region, [0; 4]);
    if with_lens {
        params.cache_seqlens = tensor(&lens_region, [2, 0, 0, 0]);
    }
    let out = if in_place { &from } else { &to };
    params.indices = tensor_mut(out, strides);
    let queue = session.queue().unwrap();
    // SAFETY: all memory is owned, of the sizes in the parameters.
    call(session, &queue, |stream| unsafe { flashmla_map_indices(session.backend.handle.0, &params, stream) })
        .unwrap_or_else(|e| panic!("{e:?}: {what}"));
    let mut want = if in_place { positions.clone() } else { vec![-1; extent] };
    for (i, t, k) in (0..b).flat_map(|i| (0..s_q).flat_map(move |t| (0..topk).map(move |k| (i, t, k)))) {
        let at = (i * strides[0] + t * strides[1] + k) as usize;
        let position = positions[at] as i64;
        let most = if with_lens { room.min(lens[i as usize] as i64) } else { room };
        want[at] = -1;
        if (0..most).contains(&position) {
            let entry = table[(i * columns + position / page) as usize] as i64;
            let index = entry * page + position % page;
            if (0..num_blocks).contains(&entry) && index < 1 << 31 {
                want[at] = index as i32;
            }
        }
    }
    let got: Vec<i32> = out.read().unwrap();
    if let Some(at) = (0..extent).find(|i| got[*i] != want[*i]) {
        panic!("element {at} is {}, not {} ({}): {what}", got[at], want[at], positions[at]);
    }
    out.check_guards("indices").unwrap();
}

#[test]
fn map_gives_what_the_definition_says() {
    let session = backend_or_skip!();
    let mut seed = 0;
    for (b, s_q) in [(1, 1), (3, 2), (5, 1), (0, 2), (2, 0)] {
        for topk in [0, 1, 3, 64, 130, 1023, 1024, 1025, 2048] {
            for page in [1, 61, 64, 256] {
                seed += 1;
                let (columns, num_blocks) = (1 + seed as i64 % 40, if seed % 11 == 0 { 0 } else { 57 });
                let (with_lens, in_place, pad) = (seed % 2 == 0, seed % 3 == 0, seed as i64 % 5);
                check(&session, &Case { b, s_q, topk, page, num_blocks, columns, with_lens, in_place, pad, seed });
            }
        }
    }
}

/// Indices that int32 cannot hold are masked.
#[test]
fn map_of_a_cache_with_more_tokens_than_indices() {
    let session = backend_or_skip!();
    let most = i32::MAX as i64;
    let base = Case {
        b: 2,
        s_q: 2,
        topk: 200,
        page: 1 << 20,
        num_blocks: most,
        columns: 2047,
        with_lens: false,
        in_place: false,
        pad: 0,
        seed: 3,
    };
    check(&session, &base);
    check(&session, &Case { page: most, columns: 1, num_blocks: 2, ..base });
}
