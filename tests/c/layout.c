/* Sizes and offsets as a C compiler lays the structs out, one a line: "struct member offset", member "" for the size. */
#include <flashmla.h>
#include <stddef.h>
#include <stdio.h>

#define SIZE(s) printf("%s - %zu\n", #s, sizeof(s))
#define AT(s, m) printf("%s %s %zu\n", #s, #m, offsetof(s, m))

int main(void) {
    SIZE(flashmla_const_tensor_t), AT(flashmla_const_tensor_t, data), AT(flashmla_const_tensor_t, strides);
    SIZE(flashmla_tensor_t), AT(flashmla_tensor_t, data), AT(flashmla_tensor_t, strides);
    SIZE(flashmla_options_t), AT(flashmla_options_t, struct_size), AT(flashmla_options_t, cpu_threads);
    AT(flashmla_options_t, reserved);
    SIZE(flashmla_device_info_t), AT(flashmla_device_info_t, struct_size), AT(flashmla_device_info_t, name);
    AT(flashmla_device_info_t, device), AT(flashmla_device_info_t, compute_capability);
    AT(flashmla_device_info_t, multiprocessors), AT(flashmla_device_info_t, driver_version);
    SIZE(flashmla_kernel_info_t), AT(flashmla_kernel_info_t, struct_size), AT(flashmla_kernel_info_t, name);
    AT(flashmla_kernel_info_t, thread_blocks), AT(flashmla_kernel_info_t, cluster_size);
    AT(flashmla_kernel_info_t, partitions);
    SIZE(flashmla_plan_t), AT(flashmla_plan_t, struct_size), AT(flashmla_plan_t, data), AT(flashmla_plan_t, size);
    AT(flashmla_plan_t, fingerprint);
    SIZE(flashmla_dense_decode_params_t), AT(flashmla_dense_decode_params_t, struct_size);
    AT(flashmla_dense_decode_params_t, dtype), AT(flashmla_dense_decode_params_t, flags);
    AT(flashmla_dense_decode_params_t, b), AT(flashmla_dense_decode_params_t, s_q);
    AT(flashmla_dense_decode_params_t, h_q), AT(flashmla_dense_decode_params_t, h_kv);
    AT(flashmla_dense_decode_params_t, d_qk), AT(flashmla_dense_decode_params_t, d_v);
    AT(flashmla_dense_decode_params_t, num_blocks), AT(flashmla_dense_decode_params_t, page_block_size);
    AT(flashmla_dense_decode_params_t, max_blocks_per_seq), AT(flashmla_dense_decode_params_t, softmax_scale);
    AT(flashmla_dense_decode_params_t, reserved), AT(flashmla_dense_decode_params_t, q);
    AT(flashmla_dense_decode_params_t, kv_cache), AT(flashmla_dense_decode_params_t, block_table);
    AT(flashmla_dense_decode_params_t, cache_seqlens), AT(flashmla_dense_decode_params_t, out);
    AT(flashmla_dense_decode_params_t, lse), AT(flashmla_dense_decode_params_t, workspace);
    AT(flashmla_dense_decode_params_t, workspace_size), AT(flashmla_dense_decode_params_t, plan);
    AT(flashmla_dense_decode_params_t, kv_layout), AT(flashmla_dense_decode_params_t, reserved2);
    SIZE(flashmla_sparse_prefill_params_t), AT(flashmla_sparse_prefill_params_t, struct_size);
    AT(flashmla_sparse_prefill_params_t, flags), AT(flashmla_sparse_prefill_params_t, softmax_scale);
    AT(flashmla_sparse_prefill_params_t, s_q), AT(flashmla_sparse_prefill_params_t, h_q);
    AT(flashmla_sparse_prefill_params_t, s_kv), AT(flashmla_sparse_prefill_params_t, d_qk);
    AT(flashmla_sparse_prefill_params_t, topk), AT(flashmla_sparse_prefill_params_t, q);
    AT(flashmla_sparse_prefill_params_t, kv), AT(flashmla_sparse_prefill_params_t, indices);
    AT(flashmla_sparse_prefill_params_t, topk_length), AT(flashmla_sparse_prefill_params_t, attn_sink);
    AT(flashmla_sparse_prefill_params_t, out), AT(flashmla_sparse_prefill_params_t, max_logits);
    AT(flashmla_sparse_prefill_params_t, lse), AT(flashmla_sparse_prefill_params_t, workspace);
    AT(flashmla_sparse_prefill_params_t, workspace_size);
    SIZE(flashmla_sparse_decode_params_t), AT(flashmla_sparse_decode_params_t, struct_size);
    AT(flashmla_sparse_decode_params_t, layout), AT(flashmla_sparse_decode_params_t, flags);
    AT(flashmla_sparse_decode_params_t, softmax_scale), AT(flashmla_sparse_decode_params_t, extra_layout);
    AT(flashmla_sparse_decode_params_t, b), AT(flashmla_sparse_decode_params_t, s_q);
    AT(flashmla_sparse_decode_params_t, h_q), AT(flashmla_sparse_decode_params_t, d_qk);
    AT(flashmla_sparse_decode_params_t, num_blocks), AT(flashmla_sparse_decode_params_t, page_block_size);
    AT(flashmla_sparse_decode_params_t, topk), AT(flashmla_sparse_decode_params_t, extra_num_blocks);
    AT(flashmla_sparse_decode_params_t, extra_page_block_size), AT(flashmla_sparse_decode_params_t, extra_topk);
    AT(flashmla_sparse_decode_params_t, q), AT(flashmla_sparse_decode_params_t, kv_cache);
    AT(flashmla_sparse_decode_params_t, indices), AT(flashmla_sparse_decode_params_t, topk_length);
    AT(flashmla_sparse_decode_params_t, extra_kv_cache), AT(flashmla_sparse_decode_params_t, extra_indices);
    AT(flashmla_sparse_decode_params_t, extra_topk_length), AT(flashmla_sparse_decode_params_t, attn_sink);
    AT(flashmla_sparse_decode_params_t, out), AT(flashmla_sparse_decode_params_t, lse);
    AT(flashmla_sparse_decode_params_t, workspace), AT(flashmla_sparse_decode_params_t, workspace_size);
    AT(flashmla_sparse_decode_params_t, plan);
    SIZE(flashmla_kv_cache_append_params_t), AT(flashmla_kv_cache_append_params_t, struct_size);
    AT(flashmla_kv_cache_append_params_t, layout), AT(flashmla_kv_cache_append_params_t, scale_rule);
    AT(flashmla_kv_cache_append_params_t, slot_type), AT(flashmla_kv_cache_append_params_t, reserved);
    AT(flashmla_kv_cache_append_params_t, n), AT(flashmla_kv_cache_append_params_t, d_qk);
    AT(flashmla_kv_cache_append_params_t, num_blocks), AT(flashmla_kv_cache_append_params_t, page_block_size);
    AT(flashmla_kv_cache_append_params_t, rows), AT(flashmla_kv_cache_append_params_t, slot_mapping);
    AT(flashmla_kv_cache_append_params_t, kv_cache);
    SIZE(flashmla_kv_cache_gather_params_t), AT(flashmla_kv_cache_gather_params_t, struct_size);
    AT(flashmla_kv_cache_gather_params_t, layout), AT(flashmla_kv_cache_gather_params_t, reserved);
    AT(flashmla_kv_cache_gather_params_t, n), AT(flashmla_kv_cache_gather_params_t, d_qk);
    AT(flashmla_kv_cache_gather_params_t, num_blocks), AT(flashmla_kv_cache_gather_params_t, page_block_size);
    AT(flashmla_kv_cache_gather_params_t, b), AT(flashmla_kv_cache_gather_params_t, max_blocks_per_seq);
    AT(flashmla_kv_cache_gather_params_t, kv_cache), AT(flashmla_kv_cache_gather_params_t, indices);
    AT(flashmla_kv_cache_gather_params_t, block_table), AT(flashmla_kv_cache_gather_params_t, cu_seqlens);
    AT(flashmla_kv_cache_gather_params_t, seq_starts), AT(flashmla_kv_cache_gather_params_t, rows);
    SIZE(flashmla_map_indices_params_t), AT(flashmla_map_indices_params_t, struct_size);
    AT(flashmla_map_indices_params_t, b), AT(flashmla_map_indices_params_t, s_q);
    AT(flashmla_map_indices_params_t, topk), AT(flashmla_map_indices_params_t, num_blocks);
    AT(flashmla_map_indices_params_t, page_block_size), AT(flashmla_map_indices_params_t, max_blocks_per_seq);
    AT(flashmla_map_indices_params_t, positions), AT(flashmla_map_indices_params_t, block_table);
    AT(flashmla_map_indices_params_t, cache_seqlens), AT(flashmla_map_indices_params_t, indices);
    return 0;
}
