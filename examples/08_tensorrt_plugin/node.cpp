#include "node.hpp"

#include <cstring>
#include <map>
#include <mutex>
#include <new>
#include <string>

namespace mla {
namespace {

/* One context for a device, however many nodes an engine has: it is made with the first and goes with the last. */
std::shared_ptr<const flashmla::Context> shared_context(std::int32_t device, Log log) {
    static std::mutex mutex;
    static std::map<std::int32_t, std::weak_ptr<const flashmla::Context>> contexts;
    const std::lock_guard<std::mutex> lock(mutex);
    if (std::shared_ptr<const flashmla::Context> context = contexts[device].lock()) return context;
    flashmla::Result<flashmla::Context> opened = flashmla::Context::open(device);
    if (!opened) {
        log(opened.error().message());
        return nullptr;
    }
    auto context = std::make_shared<const flashmla::Context>(*std::move(opened));
    contexts[device] = context;
    return context;
}

/* The library wants 256; not every runtime promises it. */
constexpr std::size_t alignment = 256;
constexpr std::size_t aligned(std::size_t size) { return (size + alignment - 1) / alignment * alignment; }

}  // namespace

DecodeNode::DecodeNode(const Attributes& values, std::shared_ptr<const flashmla::Context> context, Log log)
    : attributes_(values),
      fields_{Field{"causal", Type::int32, &attributes_.causal},
              Field{"batch_invariant", Type::int32, &attributes_.batch_invariant},
              Field{"softmax_scale", Type::fp32, &attributes_.softmax_scale}},
      context_(std::move(context)),
      log_(log) {}

std::unique_ptr<DecodeNode> DecodeNode::create(const Field* fields, int count, std::int32_t device, Log log) {
    Attributes values;
    for (int i = 0; i < count; ++i) {
        const Field& field = fields[i];
        const auto take = [&](const char* name, Type type, void* to) {
            if (std::strcmp(field.name, name) != 0 || field.type != type || field.data == nullptr) return false;
            std::memcpy(to, field.data, 4);
            return true;
        };
        if (!take("causal", Type::int32, &values.causal) &&
            !take("batch_invariant", Type::int32, &values.batch_invariant) &&
            !take("softmax_scale", Type::fp32, &values.softmax_scale)) {
            log(("attribute " + std::string(field.name) + " is unknown, or not of its type").c_str());
            return nullptr;
        }
    }
    auto context = shared_context(device, log);
    if (context == nullptr) return nullptr;
    return std::unique_ptr<DecodeNode>(new (std::nothrow) DecodeNode(values, std::move(context), log));
}

std::unique_ptr<DecodeNode> DecodeNode::clone() const {
    return std::unique_ptr<DecodeNode>(new (std::nothrow) DecodeNode(attributes_, context_, log_));
}

bool DecodeNode::supports(int position, const Desc* tensors) {
    const Type type = tensors[position].type;
    switch (position) {
    case q: return type == Type::bf16 || type == Type::fp16;
    case kv_cache:
    case inputs + out: return type == tensors[q].type;
    case block_table:
    case cache_seqlens: return type == Type::int32;
    case inputs + lse: return type == Type::fp32;
    default: return false;
    }
}

std::optional<flashmla::DenseDecodeParams> DecodeNode::read(const Desc* tensors) const {
    static constexpr int ranks[inputs] = {4, 4, 2, 1};
    for (int i = 0; i < inputs; ++i) {
        if (tensors[i].rank != ranks[i] || !supports(i, tensors)) {
            log_(("input " + std::to_string(i) + " has another rank or type").c_str());
            return std::nullopt;
        }
    }
    const auto& of_q = tensors[q].dims;
    const auto& of_cache = tensors[kv_cache].dims;
    if (of_cache[3] != of_q[3] || tensors[block_table].dims[0] != of_q[0] || tensors[cache_seqlens].dims[0] != of_q[0]) {
        log_("q, kv_cache, block_table and cache_seqlens do not fit each other");
        return std::nullopt;
    }
    flashmla::DenseDecodeParams p;
    p.dtype = tensors[q].type == Type::bf16 ? flashmla::Dtype::bf16 : flashmla::Dtype::fp16;
    if (attributes_.causal != 0) p.flags |= flashmla::Flags::causal;
    if (attributes_.batch_invariant != 0) p.flags |= flashmla::Flags::batch_invariant;
    p.softmax_scale = attributes_.softmax_scale;
    p.b = of_q[0], p.s_q = of_q[1], p.h_q = of_q[2], p.d_qk = of_q[3];
    p.num_blocks = of_cache[0], p.page_block_size = of_cache[1], p.h_kv = of_cache[2];
    p.max_blocks_per_seq = tensors[block_table].dims[1];
    return p;
}

void DecodeNode::complain(const flashmla::Error& error) const { log_(error.message()); }

std::optional<std::size_t> DecodeNode::workspace_size(const Desc* maxima) const {
    const auto p = read(maxima);
    if (!p) return std::nullopt;
    const auto plan = context_->dense_decode_plan_size(*p);
    const auto workspace = context_->dense_decode_workspace_size(*p);
    if (!plan || !workspace) return complain(!plan ? plan.error() : workspace.error()), std::nullopt;
    /* The plan, then the library's workspace, each aligned; and what the start may be off. */
    return aligned(*plan) + aligned(*workspace) + alignment;
}

bool DecodeNode::on_shape_change(const Desc* tensors) {
    ready_ = false;
    const auto p = read(tensors);
    if (!p) return false;
    /* Sizes of today, not the maxima, which a node read from an engine file has never heard of. They are no greater. */
    const auto plan = context_->dense_decode_plan_size(*p);
    const auto workspace = context_->dense_decode_workspace_size(*p);
    if (!plan || !workspace) return complain(!plan ? plan.error() : workspace.error()), false;
    params_ = *p;
    params_.workspace_size = *workspace;
    plan_size_ = *plan;
    return ready_ = true;
}

bool DecodeNode::enqueue(const void* const* in, void* const* to, void* workspace, cudaStream_t stream) const {
    if (!ready_) return log_("enqueue before onShapeChange"), false;
    const std::size_t off = aligned(reinterpret_cast<std::uintptr_t>(workspace)) - reinterpret_cast<std::uintptr_t>(workspace);
    char* const start = workspace == nullptr ? nullptr : static_cast<char*>(workspace) + off;

    /* The fingerprint is made and used in here; where the plan lies is the workspace, which the runtime lends for the
     * duration of this node: so each node plans. */
    flashmla::Plan plan;
    flashmla::DenseDecodeParams p = params_;
    plan.size = plan_size_;
    plan.data = plan_size_ == 0 ? nullptr : start;
    p.workspace = p.workspace_size == 0 ? nullptr : start + aligned(plan_size_);
    p.plan = &plan;
    p.q.data = in[q], p.kv_cache.data = in[kv_cache];
    p.block_table.data = in[block_table], p.cache_seqlens.data = in[cache_seqlens];
    p.out.data = to[out], p.lse.data = to[lse];
    flashmla::Result<void> done = context_->dense_decode_plan(p, stream);
    if (done) done = context_->dense_decode(p, stream);
    if (!done) return complain(done.error()), false;
    return true;
}

}  // namespace mla
