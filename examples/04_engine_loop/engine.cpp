#include "engine.hpp"

#include <algorithm>

Engine::Engine(device* d)
    : device_(d),
      context_(device_is_gpu(d) ? 0 : flashmla::cpu_device),
      block_table_(d, sizeof(Batch::block_table)),
      cache_seqlens_(d, sizeof(Batch::cache_seqlens)) {
    for (int l = 0; l < layers; ++l) {
        /* NaN where nothing was written: what a request does not own must not reach its result. */
        host_cache_[l].assign(static_cast<std::size_t>(num_pages) * page_size * D_QK, 0xffff);
        cache_.emplace_back(d, host_cache_[l].size() * 2);
        device_upload(d, cache_[l].get(), host_cache_[l].data(), host_cache_[l].size() * 2);
        q_.emplace_back(d, sizeof(Batch::q[0]));
        out_.emplace_back(d, sizeof(Outputs::out[0]));
        lse_.emplace_back(d, sizeof(Outputs::lse[0]));
    }

    for (std::size_t i = 0; i < buckets_.size(); ++i) {
        Bucket& bucket = buckets_[i];
        bucket.size = bucket_sizes[i];
        for (int l = 0; l < layers; ++l) {
            flashmla::DenseDecodeParams& p = bucket.params[l];
            p.b = bucket.size, p.s_q = 1, p.h_q = heads, p.h_kv = 1, p.d_qk = D_QK;
            p.num_blocks = num_pages, p.page_block_size = page_size, p.max_blocks_per_seq = max_pages;
            p.q.data = q_[l].get(), p.kv_cache.data = cache_[l].get();
            p.block_table.data = block_table_.get(), p.cache_seqlens.data = cache_seqlens_.get();
            p.out.data = out_[l].get(), p.lse.data = lse_[l].get();
            p.plan = &bucket.plan;
        }
    }

    /* Asked once, with the maxima; every smaller bucket gets along with the same. Layers and steps follow one
     * another on the stream, so that one workspace serves all. */
    const flashmla::DenseDecodeParams& largest = buckets_.back().params[0];
    const std::size_t plan_size = context_.dense_decode_plan_size(largest);
    const std::size_t workspace_size = context_.dense_decode_workspace_size(largest);
    scratch_.emplace_back(d, plan_size);
    scratch_.emplace_back(d, workspace_size);
    for (Bucket& bucket : buckets_) {
        bucket.plan.data = scratch_[0].get(), bucket.plan.size = plan_size;
        for (flashmla::DenseDecodeParams& p : bucket.params)
            p.workspace = scratch_[1].get(), p.workspace_size = workspace_size;
    }
}

void Engine::write_row(int layer, std::int32_t page, int slot, const std::uint16_t* row) {
    const std::size_t at = (static_cast<std::size_t>(page) * page_size + static_cast<std::size_t>(slot)) * D_QK;
    std::copy_n(row, D_QK, &host_cache_[layer][at]);
    device_upload(device_, static_cast<std::uint16_t*>(cache_[layer].get()) + at, row, D_QK * 2);
}

/* One plan, made from the lengths on the device, and every layer after it. An engine has the rest of the model
 * between the layers. */
void Engine::launch(const Bucket& bucket) {
    context_.dense_decode_plan(bucket.params[0], device_stream(device_));
    for (const flashmla::DenseDecodeParams& p : bucket.params) context_.dense_decode(p, device_stream(device_));
}

int Engine::step(const Batch& batch, int n, Outputs& outputs) {
    Bucket& bucket = *std::find_if(buckets_.begin(), buckets_.end(), [n](const Bucket& b) { return b.size >= n; });
    const auto rows = static_cast<std::size_t>(bucket.size);

    /* Rows past the n-th are requests of length 0: nothing is read for them, and their outputs are 0. */
    std::array<std::int32_t, max_batch> lens = {};
    std::copy_n(batch.cache_seqlens.begin(), n, lens.begin());
    device_upload(device_, cache_seqlens_.get(), lens.data(), rows * sizeof lens[0]);
    device_upload(device_, block_table_.get(), batch.block_table.data(), rows * sizeof batch.block_table[0]);
    for (int l = 0; l < layers; ++l)
        device_upload(device_, q_[l].get(), batch.q[l].data(), rows * sizeof batch.q[l][0]);

    /* A bucket is captured when it first comes up, and replayed from then on: addresses and sizes are in the graph,
     * lengths, block table and contents are read when it runs. The CPU backend has no graphs and is called. */
    if (bucket.graph == nullptr) {
        const bool capturing = device_capture_begin(device_) != 0;
        launch(bucket);
        if (capturing) bucket.graph = device_capture_end(device_);
    }
    if (bucket.graph != nullptr) device_graph_launch(device_, bucket.graph);

    for (int l = 0; l < layers; ++l) {
        device_download(device_, outputs.out[l].data(), out_[l].get(), rows * sizeof outputs.out[l][0]);
        device_download(device_, outputs.lse[l].data(), lse_[l].get(), rows * sizeof outputs.lse[l][0]);
    }
    return bucket.size;
}

int Engine::graphs() const {
    return static_cast<int>(
        std::count_if(buckets_.begin(), buckets_.end(), [](const Bucket& b) { return b.graph != nullptr; }));
}
