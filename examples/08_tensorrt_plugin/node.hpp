/*
 * Dense decode as a node of an inference runtime, by the calls that TensorRT makes of a plugin, without a word of
 * TensorRT: attributes in and out, shapes and types, workspace from maxima, clones, enqueue. plugin.cpp puts it into
 * IPluginV3; the host in host.cpp drives it as TensorRT would.
 *
 * Nothing here throws; what is wrong is logged and told by the result.
 */
#ifndef TENSORRT_PLUGIN_NODE_HPP
#define TENSORRT_PLUGIN_NODE_HPP

#include <flashmla.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>

namespace mla {

enum class Type { bf16, fp16, int32, fp32, other };

struct Desc {
    Type type = Type::other;
    int rank = 0;
    std::array<std::int64_t, 8> dims = {};
};

/* A named attribute; `data` is one element of the type. */
struct Field {
    const char* name;
    Type type; /* int32 or fp32 */
    const void* data;
};

using Log = void (*)(const char* message);

class DecodeNode {
public:
    /* [b, s_q, h_q, d_qk], [num_blocks, page, h_kv, d_qk], [b, max_blocks_per_seq] int32, [b] int32 */
    enum Input { q, kv_cache, block_table, cache_seqlens, inputs };
    /* [b, s_q, h_q, 512], [b, h_q, s_q] FP32 */
    enum Output { out, lse, outputs };
    static constexpr std::int64_t d_v = 512;

    /* What create() takes and fields() gives. */
    struct Attributes {
        std::int32_t causal = 1;
        std::int32_t batch_invariant = 0;
        float softmax_scale = 0; /* 0: d_qk^-0.5 */
    };
    static constexpr int attributes = 3;

    /* Null for a field that is not one, and where the device has no context. Everything that blocks happens here. */
    static std::unique_ptr<DecodeNode> create(const Field* fields, int count, std::int32_t device, Log log);

    /* With the same context. */
    std::unique_ptr<DecodeNode> clone() const;

    const std::array<Field, attributes>& fields() const { return fields_; }

    /* Whether the tensor at that position, inputs first, may have its type, given those before it. */
    static bool supports(int position, const Desc* tensors);

    /* For symbolic dimensions and for numbers: those of the outputs, from those of q and the number 512. */
    template <class Dim>
    static void output_dims(const Dim* of_q, Dim d_v, Dim* of_out, Dim* of_lse) {
        of_out[0] = of_q[0], of_out[1] = of_q[1], of_out[2] = of_q[2], of_out[3] = d_v;
        of_lse[0] = of_q[0], of_lse[1] = of_q[2], of_lse[2] = of_q[1];
    }

    /* Bytes of workspace that suffice for these shapes and all smaller ones; nothing if they can't be run. */
    std::optional<std::size_t> workspace_size(const Desc* maxima) const;

    /* Before the first enqueue, and whenever shapes change. */
    bool on_shape_change(const Desc* tensors);

    /* Plan and decode on the stream: neither allocates nor waits; may be captured. */
    bool enqueue(const void* const* inputs, void* const* outputs, void* workspace, cudaStream_t stream) const;

    const flashmla::Context& context() const { return *context_; }

private:
    DecodeNode(const Attributes& values, std::shared_ptr<const flashmla::Context> context, Log log);

    /* What the descriptions say, checked as far as the library can't: it sees no two shapes of one tensor. */
    std::optional<flashmla::DenseDecodeParams> read(const Desc* tensors) const;
    void complain(const flashmla::Error& error) const;

    Attributes attributes_;
    std::array<Field, attributes> fields_; /* point into attributes_: no copies, but clone() */
    std::shared_ptr<const flashmla::Context> context_;
    Log log_;

    /* Of the shapes of now. */
    flashmla::DenseDecodeParams params_;
    std::size_t plan_size_ = 0;
    bool ready_ = false;
};

}  // namespace mla

#endif
