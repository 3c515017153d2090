/*
 * A TensorRT plugin around dense decode, and how it is tested where there is no TensorRT.
 *
 * Teaches: what a plugin has to do (workspace from the maxima of a profile, enqueue without allocation or
 * synchronisation, attributes that survive the engine file, clones that share one context) and flashmla.hpp without
 * exceptions. node.cpp is the plugin but for its interface; plugin.cpp gives it TensorRT's, IPluginV3, and is built
 * where cmake is told of TensorRT's headers (-DTENSORRT_ROOT=...); host.cpp is a host that makes the same calls in the
 * same order. Here it drives the node itself; plugin_main.cpp drives it through TensorRT's interface.
 */
#include "host.hpp"

#include <cstdio>
#include <cstring>

namespace {

class Direct : public host::Plugin {
public:
    explicit Direct(std::unique_ptr<mla::DecodeNode> node) : node_(std::move(node)) {}

    bool supports(int position, const mla::Desc* tensors) override { return mla::DecodeNode::supports(position, tensors); }
    std::vector<mla::Desc> output_descs(const mla::Desc* inputs) override {
        mla::Desc out = {inputs[0].type, 4, {}}, lse = {mla::Type::fp32, 3, {}};
        mla::DecodeNode::output_dims(inputs[0].dims.data(), mla::DecodeNode::d_v, out.dims.data(), lse.dims.data());
        return {out, lse};
    }
    bool configure(const mla::Desc* maxima) override { return node_->workspace_size(maxima).has_value(); }
    std::size_t workspace_size(const mla::Desc* maxima) override { return node_->workspace_size(maxima).value_or(0); }
    std::vector<host::Entry> serialise() override {
        std::vector<host::Entry> entries;
        for (const mla::Field& field : node_->fields()) {
            std::memcpy(entries.emplace_back(host::Entry{field.name, field.type, {}}).bytes.data(), field.data, 4);
        }
        return entries;
    }
    std::unique_ptr<host::Plugin> attach() override { return std::make_unique<Direct>(node_->clone()); }
    bool on_shape_change(const mla::Desc* tensors) override { return node_->on_shape_change(tensors); }
    bool enqueue(const mla::Desc*, const void* const* inputs, void* const* outputs, void* workspace,
                 cudaStream_t stream) override {
        return node_->enqueue(inputs, outputs, workspace, stream);
    }

private:
    std::unique_ptr<mla::DecodeNode> node_;
};

/* However many nodes there are, there is one context; it is freed with the last of them. */
int sharing(std::int32_t device) {
    auto first = mla::DecodeNode::create(nullptr, 0, device, host::log);
    auto second = mla::DecodeNode::create(nullptr, 0, device, host::log);
    auto clone = first->clone();
    const bool shared = &first->context() == &second->context() && &first->context() == &clone->context();
    first.reset(), second.reset();
    const bool alive = clone->context().device_info().ok();
    const bool none = mla::DecodeNode::create(nullptr, 0, -7, host::log) == nullptr &&
                      host::complaints.find("device = -7") != std::string::npos;
    host::complaints.clear();
    if (!shared || !alive || !none) std::printf("contexts: shared %d, alive %d, refused %d\n", shared, alive, none);
    return !shared || !alive || !none;
}

}  // namespace

int main() {
    device* d = device_open();
    if (d == nullptr) return 1;
    const std::int32_t ordinal = device_is_gpu(d) ? 0 : flashmla::cpu_device;
    int failures = sharing(ordinal);
    failures += host::run(d, [&](const std::vector<host::Entry>& entries) -> std::unique_ptr<host::Plugin> {
        std::vector<mla::Field> fields;
        for (const host::Entry& e : entries) fields.push_back({e.name.c_str(), e.type, e.bytes.data()});
        auto node = mla::DecodeNode::create(fields.data(), static_cast<int>(fields.size()), ordinal, host::log);
        if (node == nullptr) return nullptr;
        return std::make_unique<Direct>(std::move(node));
    });
    device_close(d);
    return failures != 0;
}
