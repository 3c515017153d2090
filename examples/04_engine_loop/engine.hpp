/* The half of an engine that meets libflashmla: device memory for a batch of up to max_batch requests, one
 * parameter set per bucket and layer, and one step of attention over all layers. */
#ifndef ENGINE_LOOP_ENGINE_HPP
#define ENGINE_LOOP_ENGINE_HPP

#include "common/device.h"
#include "common/reference.h"

#include <flashmla.hpp>

#include <array>
#include <memory>
#include <vector>

constexpr int layers = 3, heads = 16;
constexpr int page_size = 64, num_pages = 14, max_pages = 6; /* max_pages: of a request */
static_assert(max_pages <= num_pages, "a request alone must find room");
constexpr int max_batch = 8;
/* A step runs as the smallest bucket that holds it: four graphs, not one for each batch size. */
constexpr std::array<int, 4> bucket_sizes = {1, 2, 4, max_batch};

/* Device memory, or host memory on the CPU backend; freed with its owner. */
class Buffer {
public:
    Buffer(device* d, std::size_t bytes) : device_(d), memory_(device_alloc(d, bytes)) {}
    Buffer(Buffer&& other) noexcept : device_(other.device_), memory_(std::exchange(other.memory_, nullptr)) {}
    Buffer& operator=(Buffer&&) = delete;
    ~Buffer() { device_free(device_, memory_); }

    void* get() const { return memory_; }

private:
    device* device_;
    void* memory_;
};

/* What a step reads, as the scheduler fills it on the host: rows 0 to n - 1, one for each running request. */
struct Batch {
    std::array<std::array<std::int32_t, max_pages>, max_batch> block_table;
    std::array<std::int32_t, max_batch> cache_seqlens;
    std::array<std::array<std::uint16_t, heads * D_QK>, max_batch> q[layers];
};

/* What it gives. */
struct Outputs {
    std::array<std::array<std::uint16_t, heads * D_V>, max_batch> out[layers];
    std::array<std::array<float, heads>, max_batch> lse[layers];
};

class Engine {
public:
    explicit Engine(device* d);

    /* Puts a token's row into a layer's cache. A model's own kernel would, on the stream. */
    void write_row(int layer, std::int32_t page, int slot, const std::uint16_t* row);

    /* Plan and all layers for the first n rows of the batch; returns the bucket that they ran in. */
    int step(const Batch& batch, int n, Outputs& outputs);

    /* The same cache on the host, for the check. */
    const std::uint16_t* cache(int layer) const { return host_cache_[layer].data(); }

    /* CUDA graphs captured so far; 0 on the CPU. */
    int graphs() const;

private:
    struct Bucket {
        int size = 0;
        /* The library keeps in it what the plan was made for, so each batch size has one; they share the memory,
         * since every step plans anew. */
        flashmla::Plan plan;
        std::array<flashmla::DenseDecodeParams, layers> params;
        device_graph* graph = nullptr;
    };

    void launch(const Bucket& bucket);

    device* device_;
    flashmla::Context context_;
    Buffer block_table_, cache_seqlens_;
    std::vector<Buffer> cache_, q_, out_, lse_; /* one a layer */
    std::vector<Buffer> scratch_;               /* plan and workspace */
    std::vector<std::uint16_t> host_cache_[layers];
    std::array<Bucket, bucket_sizes.size()> buckets_;
};

#endif
