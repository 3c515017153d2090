/*
 * The same host, through TensorRT's interface: creator, capabilities, IPluginV3. It needs TensorRT's headers and nothing
 * of its library, so it is built and run wherever the headers are.
 */
#include "host.hpp"
#include "plugin.hpp"

#include <cstdio>
#include <cstring>
#include <deque>

namespace {

std::int32_t ordinal = flashmla::cpu_device;

/* Constants, in the place of symbols. */
class Constant final : public nvinfer1::IDimensionExpr, public nvinfer1::apiv::VDimensionExpr {
public:
    explicit Constant(std::int64_t value) : value_(value) { mImpl = this; }
    bool isConstant() const override { return true; }
    std::int64_t getConstantValue() const override { return value_; }
    bool isSizeTensor() const override { return false; }

private:
    std::int64_t value_;
};

class Builder final : public nvinfer1::IExprBuilder, public nvinfer1::apiv::VExprBuilder {
public:
    Builder() { mImpl = this; }
    nvinfer1::IDimensionExpr const* constant(std::int64_t value) override { return &constants_.emplace_back(value); }
    nvinfer1::IDimensionExpr const* operation(nvinfer1::DimensionOperation, nvinfer1::IDimensionExpr const&,
                                              nvinfer1::IDimensionExpr const&) override {
        return nullptr;
    }
    nvinfer1::IDimensionExpr const* declareSizeTensor(std::int32_t, nvinfer1::IDimensionExpr const&,
                                                      nvinfer1::IDimensionExpr const&) override {
        return nullptr;
    }

private:
    std::deque<Constant> constants_;
};

nvinfer1::DataType data_type(mla::Type type) {
    switch (type) {
    case mla::Type::bf16: return nvinfer1::DataType::kBF16;
    case mla::Type::fp16: return nvinfer1::DataType::kHALF;
    case mla::Type::int32: return nvinfer1::DataType::kINT32;
    case mla::Type::fp32: return nvinfer1::DataType::kFLOAT;
    case mla::Type::other: break;
    }
    return nvinfer1::DataType::kBOOL;
}

using Node = mla::DecodeNode;
constexpr int tensors = Node::inputs + Node::outputs;

struct Descs {
    explicit Descs(const mla::Desc* from) {
        for (int i = 0; i < tensors; ++i) {
            plain[i].type = data_type(from[i].type);
            plain[i].format = nvinfer1::TensorFormat::kLINEAR;
            plain[i].scale = 1;
            plain[i].dims.nbDims = from[i].rank;
            for (int j = 0; j < from[i].rank; ++j) plain[i].dims.d[j] = from[i].dims[static_cast<std::size_t>(j)];
            dynamic[i].desc = plain[i];
            dynamic[i].min = dynamic[i].opt = dynamic[i].max = plain[i].dims;
        }
    }
    nvinfer1::PluginTensorDesc plain[tensors] = {};
    nvinfer1::DynamicPluginTensorDesc dynamic[tensors] = {};
};

class Through final : public host::Plugin {
public:
    explicit Through(nvinfer1::IPluginV3* plugin) : plugin_(plugin) {
        using nvinfer1::PluginCapabilityType;
        build_ = static_cast<nvinfer1::IPluginV3OneBuild*>(plugin->getCapabilityInterface(PluginCapabilityType::kBUILD));
        runtime_ = static_cast<nvinfer1::IPluginV3OneRuntime*>(plugin->getCapabilityInterface(PluginCapabilityType::kRUNTIME));
    }

    bool supports(int position, const mla::Desc* t) override {
        return build_->supportsFormatCombination(position, Descs(t).dynamic, Node::inputs, Node::outputs);
    }
    std::vector<mla::Desc> output_descs(const mla::Desc* inputs) override {
        Builder builder;
        nvinfer1::DimsExprs in[Node::inputs] = {}, out[Node::outputs] = {};
        nvinfer1::DataType types[Node::outputs], in_types[Node::inputs];
        for (int i = 0; i < Node::inputs; ++i) {
            in_types[i] = data_type(inputs[i].type);
            in[i].nbDims = inputs[i].rank;
            for (int j = 0; j < inputs[i].rank; ++j) in[i].d[j] = builder.constant(inputs[i].dims[static_cast<std::size_t>(j)]);
        }
        if (build_->getNbOutputs() != Node::outputs ||
            build_->getOutputShapes(in, Node::inputs, nullptr, 0, out, Node::outputs, builder) != 0 ||
            build_->getOutputDataTypes(types, Node::outputs, in_types, Node::inputs) != 0 || types[0] != in_types[0] ||
            types[1] != nvinfer1::DataType::kFLOAT)
            return {};
        std::vector<mla::Desc> descs;
        for (int i = 0; i < Node::outputs; ++i) {
            mla::Desc& d = descs.emplace_back(mla::Desc{i == 0 ? inputs[0].type : mla::Type::fp32, out[i].nbDims, {}});
            for (int j = 0; j < d.rank; ++j) d.dims[static_cast<std::size_t>(j)] = out[i].d[j]->getConstantValue();
        }
        return descs;
    }
    bool configure(const mla::Desc* maxima) override {
        const Descs d(maxima);
        return build_->configurePlugin(d.dynamic, Node::inputs, d.dynamic + Node::inputs, Node::outputs) == 0;
    }
    std::size_t workspace_size(const mla::Desc* maxima) override {
        const Descs d(maxima);
        return build_->getWorkspaceSize(d.dynamic, Node::inputs, d.dynamic + Node::inputs, Node::outputs);
    }
    std::vector<host::Entry> serialise() override {
        std::vector<host::Entry> entries;
        const nvinfer1::PluginFieldCollection& c = *runtime_->getFieldsToSerialize();
        for (int i = 0; i < c.nbFields; ++i) {
            const auto type = c.fields[i].type == nvinfer1::PluginFieldType::kINT32 ? mla::Type::int32 : mla::Type::fp32;
            std::memcpy(entries.emplace_back(host::Entry{c.fields[i].name, type, {}}).bytes.data(), c.fields[i].data, 4);
        }
        return entries;
    }
    std::unique_ptr<host::Plugin> attach() override { return std::make_unique<Through>(runtime_->attachToContext(nullptr)); }
    bool on_shape_change(const mla::Desc* t) override {
        const Descs d(t);
        return runtime_->onShapeChange(d.plain, Node::inputs, d.plain + Node::inputs, Node::outputs) == 0;
    }
    bool enqueue(const mla::Desc* t, const void* const* inputs, void* const* outputs, void* workspace,
                 cudaStream_t stream) override {
        const Descs d(t);
        return runtime_->enqueue(d.plain, d.plain + Node::inputs, inputs, outputs, workspace, stream) == 0;
    }

private:
    std::unique_ptr<nvinfer1::IPluginV3> plugin_;
    nvinfer1::IPluginV3OneBuild* build_;
    nvinfer1::IPluginV3OneRuntime* runtime_;
};

}  // namespace

int main() {
    device* d = device_open();
    if (d == nullptr) return 1;
    if (device_is_gpu(d)) ordinal = 0;
    mla::Creator creator([] { return ordinal; }, host::log);
    int failures = creator.getFieldNames()->nbFields != Node::attributes;
    failures += host::run(d, [&](const std::vector<host::Entry>& entries) -> std::unique_ptr<host::Plugin> {
        std::vector<nvinfer1::PluginField> fields;
        for (const host::Entry& e : entries) {
            const bool integer = e.type == mla::Type::int32;
            fields.emplace_back(e.name.c_str(), e.bytes.data(),
                                integer ? nvinfer1::PluginFieldType::kINT32 : nvinfer1::PluginFieldType::kFLOAT32, 1);
        }
        const nvinfer1::PluginFieldCollection collection = {static_cast<std::int32_t>(fields.size()), fields.data()};
        nvinfer1::IPluginV3* plugin = creator.createPlugin("decode", &collection, nvinfer1::TensorRTPhase::kBUILD);
        if (plugin == nullptr) return nullptr;
        return std::make_unique<Through>(plugin);
    });
    std::printf("through TensorRT %d.%d's interface\n", NV_TENSORRT_MAJOR, NV_TENSORRT_MINOR);
    device_close(d);
    return failures != 0;
}
