use super::{disjoint, safe, size, softmax_scale, tensor, well_put, HOSTILE};
use crate::random::Random;
use flashmla::problem::dense_decode::{DenseDecode, Raw, Shape, D_V};
use flashmla::schedule::Grid;
use flashmla::workspace::{plan_size, workspace_size, PlanLayout, SplitLayout};

fn raw(r: &mut Random) -> Raw {
    let h_kv = size(r, &[1, 1, 1, 2, 3]);
    let h_q = if r.below(16) == 0 { r.pick(&HOSTILE) } else { h_kv.wrapping_mul(r.pick(&[1, 4, 12, 16, 128])) };
    let (b, s_q) = (size(r, &[0, 1, 2, 5, 128, 65536]), size(r, &[0, 1, 2, 4, 32768]));
    let d_qk = size(r, &[576, 576, 512]);
    let (num_blocks, page) = (size(r, &[0, 1, 9, 4096]), size(r, &[1, 16, 61, 64, 256]));
    let columns = size(r, &[0, 1, 7, 1024]);
    let mut raw = Raw {
        dtype: size(r, &[0, 1]) as i32,
        flags: size(r, &[0, 1, 2, 4, 7]) as u32,
        b,
        s_q,
        h_q,
        h_kv,
        d_qk,
        d_v: size(r, &[0, 512]),
        num_blocks,
        page_block_size: page,
        max_blocks_per_seq: columns,
        softmax_scale: softmax_scale(r),
        ..Default::default()
    };
    raw.q = tensor(r, &[b, s_q, h_q, d_qk]);
    raw.kv_cache = tensor(r, &[num_blocks, page, h_kv, d_qk]);
    raw.block_table = tensor(r, &[b, columns]);
    raw.cache_seqlens = tensor(r, &[b]);
    raw.out = tensor(r, &[b, s_q, h_q, D_V]);
    raw.lse = tensor(r, &[b, h_q, s_q]);
    raw
}

#[test]
fn a_million_problems() {
    let mut r = Random(1);
    let mut accepted = 0;
    for _ in 0..1_000_000 {
        let raw = raw(&mut r);
        match DenseDecode::check(&raw) {
            Ok(p) => {
                accepted += 1;
                safe(&p.q, 2);
                safe(&p.kv_cache, 2);
                safe(&p.block_table, 4);
                safe(&p.cache_seqlens, 4);
                safe(&p.out, 2);
                disjoint(&p.out);
                if let Some(lse) = &p.lse {
                    safe(lse, 4);
                    disjoint(lse);
                }
                assert!(p.softmax_scale.is_finite() && p.softmax_scale > 0.0);
                assert_eq!(p.shape.h_q % p.shape.h_kv, 0);
                assert!(p.shape.max_tokens() < 1 << 31);
            }
            Err(e) => well_put(&e),
        }
    }
    assert!(accepted > 50_000, "only {accepted} problems were accepted: the others prove little");
}

fn shape(r: &mut Random) -> Shape {
    loop {
        let h_kv = r.pick(&[1, 1, 2, 3, 8]);
        let raw = Raw {
            flags: r.pick(&[0, 4]),
            b: 1 + r.below(300) as i64,
            s_q: r.pick(&[1, 2, 3, 4, 7, 64, 130, 5000, 32768]),
            h_kv,
            h_q: h_kv * r.pick(&[1, 7, 16, 64, 65, 128, 200]),
            d_qk: 576,
            num_blocks: 4096,
            page_block_size: r.pick(&[1, 16, 61, 64, 256]),
            max_blocks_per_seq: 1 + r.below(2000) as i64,
            ..Default::default()
        };
        if let Ok(shape) = Shape::check(&raw) {
            return shape;
        }
    }
}

/// What is asked for the maxima is enough for every smaller problem, and for the launch itself.
#[test]
fn sizes_are_monotone_and_suffice() {
    let mut r = Random(2);
    for _ in 0..100_000 {
        let large = shape(&mut r);
        let multiprocessors = r.pick(&[1, 2, 78, 114, 132, 144]);
        let small = Shape {
            b: 1 + r.below(large.b as u64) as i64,
            s_q: 1 + r.below(large.s_q as u64) as i64,
            max_blocks_per_seq: 1 + r.below(large.max_blocks_per_seq as u64) as i64,
            ..large
        };
        let grid = Grid::new(&small, multiprocessors);
        let told = workspace_size(&large, multiprocessors);
        assert!(told >= SplitLayout::new(&small, &grid).size, "{large:?} {small:?} {multiprocessors}");
        assert!(told >= workspace_size(&small, multiprocessors), "{large:?} {small:?} {multiprocessors}");
        let told = plan_size(&large, multiprocessors);
        assert!(told >= PlanLayout::new(&small, grid.partitions).size, "{large:?} {small:?} {multiprocessors}");
        assert!(told >= plan_size(&small, multiprocessors), "{large:?} {small:?} {multiprocessors}");
    }
}

#[test]
fn nothing_to_split_needs_nothing() {
    let mut r = Random(3);
    for _ in 0..10_000 {
        let shape = Shape { max_blocks_per_seq: 1, page_block_size: 64, ..shape(&mut r) };
        assert_eq!(workspace_size(&shape, 132), 0, "{shape:?}");
        assert_eq!(workspace_size(&Shape { b: 0, ..shape }, 132), 0);
        assert_eq!(plan_size(&Shape { s_q: 0, ..shape }, 132), 0);
    }
}
