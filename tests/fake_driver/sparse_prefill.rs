//! Sparse prefill in a context of a GPU: refused, after the arguments were checked, and without a call of
//! the driver.

use super::api::*;
use super::control::Fake;
use super::process::{alone, Driver};
use flashmla::capi::sparse_prefill::*;
use flashmla::capi::types::*;
use flashmla::status::*;

#[test]
fn has_no_kernel() {
    alone(Driver::Whole, &[], || {
        use_fake_kernels();
        let fake = Fake::open();
        let context = Context::create(0).unwrap();
        fake.forget();
        // SAFETY: plain data, for which all 0 is a value.
        let mut params: flashmla_sparse_prefill_params_t = unsafe { std::mem::zeroed() };
        params.struct_size = size_of_val(&params);
        (params.s_q, params.h_q, params.s_kv, params.d_qk, params.topk) = (2, 128, 300, 576, 64);
        let input = |data: u64| flashmla_const_tensor_t { data: data as *const _, strides: [0; 4] };
        params.q = input(Q);
        params.kv = input(KV_CACHE);
        params.indices = input(BLOCK_TABLE);
        params.out = flashmla_tensor_t { data: OUT as *mut _, strides: [0; 4] };
        // SAFETY: plain data, for which all 0 is a value.
        let mut info: flashmla_kernel_info_t = unsafe { std::mem::zeroed() };
        info.struct_size = size_of_val(&info);
        let mut size = 77;
        // SAFETY: a live context and parameters; device addresses are not followed.
        let mut calls = |params: &flashmla_sparse_prefill_params_t| unsafe {
            [
                outcome(flashmla_sparse_prefill_query(context.raw(), params, &mut info)),
                outcome(flashmla_sparse_prefill_workspace_size(context.raw(), params, &mut size)),
                outcome(flashmla_sparse_prefill(context.raw(), params, std::ptr::null_mut())),
            ]
        };
        for refused in calls(&params) {
            let failure = refused.unwrap_err();
            assert_eq!(failure.status, FLASHMLA_ERROR_UNSUPPORTED);
            assert!(failure.message.contains("sparse prefill has no GPU kernel"), "{}", failure.message);
        }
        // A wrong argument is what the caller hears of first.
        params.topk = -1;
        for refused in calls(&params) {
            assert_eq!(refused.unwrap_err().status, FLASHMLA_ERROR_INVALID_SHAPE);
        }
        assert_eq!((size, info.thread_blocks), (77, 0));
        assert!(fake.calls().is_empty());
    });
}
