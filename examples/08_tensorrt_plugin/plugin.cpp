#include "plugin.hpp"

#include <new>

namespace mla {
namespace {

using nvinfer1::DataType;
using nvinfer1::PluginFieldType;

constexpr char plugin_name[] = "FlashMLADenseDecode", plugin_version[] = "1", plugin_namespace[] = "";

Type type_of(DataType type) {
    switch (type) {
    case DataType::kBF16: return Type::bf16;
    case DataType::kHALF: return Type::fp16;
    case DataType::kINT32: return Type::int32;
    case DataType::kFLOAT: return Type::fp32;
    default: return Type::other;
    }
}

Desc describe(DataType type, nvinfer1::Dims const& dims) {
    Desc d;
    d.type = type_of(type), d.rank = dims.nbDims;
    for (int i = 0; i < dims.nbDims && i < 8; ++i) d.dims[static_cast<std::size_t>(i)] = dims.d[i];
    return d;
}

using Tensors = std::array<Desc, DecodeNode::inputs + DecodeNode::outputs>;

/* Of the greatest shapes of a profile. */
Tensors maxima(nvinfer1::DynamicPluginTensorDesc const* inputs) {
    Tensors t;
    for (int i = 0; i < DecodeNode::inputs; ++i) t[i] = describe(inputs[i].desc.type, inputs[i].max);
    return t;
}

PluginFieldType field_type(Type type) { return type == Type::int32 ? PluginFieldType::kINT32 : PluginFieldType::kFLOAT32; }

bool counts(std::int32_t nbInputs, std::int32_t nbOutputs) {
    return nbInputs == DecodeNode::inputs && nbOutputs == DecodeNode::outputs;
}

constexpr std::int32_t ok = 0, failed = -1;

}  // namespace

Plugin::Plugin(std::unique_ptr<DecodeNode> node) : node_(std::move(node)) {
    for (std::size_t i = 0; i < fields_.size(); ++i) {
        const Field& f = node_->fields()[i];
        fields_[i] = nvinfer1::PluginField(f.name, f.data, field_type(f.type), 1);
    }
    collection_ = {static_cast<std::int32_t>(fields_.size()), fields_.data()};
}

nvinfer1::IPluginCapability* Plugin::getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept {
    switch (type) {
    case nvinfer1::PluginCapabilityType::kCORE: return static_cast<nvinfer1::IPluginV3OneCore*>(this);
    case nvinfer1::PluginCapabilityType::kBUILD: return static_cast<nvinfer1::IPluginV3OneBuild*>(this);
    case nvinfer1::PluginCapabilityType::kRUNTIME: return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
    }
    return nullptr;
}

nvinfer1::IPluginV3* Plugin::clone() noexcept {
    auto node = node_->clone();
    return node == nullptr ? nullptr : new (std::nothrow) Plugin(std::move(node));
}

/* The context of the library is shared by all clones; of TensorRT's resources nothing is needed. */
nvinfer1::IPluginV3* Plugin::attachToContext(nvinfer1::IPluginResourceContext*) noexcept { return clone(); }

nvinfer1::AsciiChar const* Plugin::getPluginName() const noexcept { return plugin_name; }
nvinfer1::AsciiChar const* Plugin::getPluginVersion() const noexcept { return plugin_version; }
nvinfer1::AsciiChar const* Plugin::getPluginNamespace() const noexcept { return plugin_namespace; }

std::int32_t Plugin::getNbOutputs() const noexcept { return DecodeNode::outputs; }

std::int32_t Plugin::getOutputDataTypes(DataType* outputs, std::int32_t nbOutputs, DataType const* inputs,
                                        std::int32_t nbInputs) const noexcept {
    if (!counts(nbInputs, nbOutputs)) return failed;
    outputs[DecodeNode::out] = inputs[DecodeNode::q];
    outputs[DecodeNode::lse] = DataType::kFLOAT;
    return ok;
}

std::int32_t Plugin::getOutputShapes(nvinfer1::DimsExprs const* inputs, std::int32_t nbInputs, nvinfer1::DimsExprs const*,
                                     std::int32_t, nvinfer1::DimsExprs* outputs, std::int32_t nbOutputs,
                                     nvinfer1::IExprBuilder& builder) noexcept {
    if (!counts(nbInputs, nbOutputs) || inputs[DecodeNode::q].nbDims != 4) return failed;
    nvinfer1::DimsExprs &out = outputs[DecodeNode::out], &lse = outputs[DecodeNode::lse];
    out.nbDims = 4, lse.nbDims = 3;
    DecodeNode::output_dims(inputs[DecodeNode::q].d, builder.constant(DecodeNode::d_v), out.d, lse.d);
    return ok;
}

bool Plugin::supportsFormatCombination(std::int32_t position, nvinfer1::DynamicPluginTensorDesc const* tensors,
                                       std::int32_t nbInputs, std::int32_t nbOutputs) noexcept {
    if (!counts(nbInputs, nbOutputs) || position < 0 || position >= nbInputs + nbOutputs) return false;
    Tensors t;
    for (int i = 0; i <= position; ++i) t[i].type = type_of(tensors[i].desc.type);
    return tensors[position].desc.format == nvinfer1::TensorFormat::kLINEAR && DecodeNode::supports(position, t.data());
}

std::int32_t Plugin::configurePlugin(nvinfer1::DynamicPluginTensorDesc const* inputs, std::int32_t nbInputs,
                                     nvinfer1::DynamicPluginTensorDesc const*, std::int32_t nbOutputs) noexcept {
    return counts(nbInputs, nbOutputs) && node_->workspace_size(maxima(inputs).data()) ? ok : failed;
}

std::size_t Plugin::getWorkspaceSize(nvinfer1::DynamicPluginTensorDesc const* inputs, std::int32_t,
                                     nvinfer1::DynamicPluginTensorDesc const*, std::int32_t) const noexcept {
    return node_->workspace_size(maxima(inputs).data()).value_or(0);
}

std::int32_t Plugin::onShapeChange(nvinfer1::PluginTensorDesc const* inputs, std::int32_t nbInputs,
                                   nvinfer1::PluginTensorDesc const*, std::int32_t nbOutputs) noexcept {
    if (!counts(nbInputs, nbOutputs)) return failed;
    Tensors t;
    for (int i = 0; i < DecodeNode::inputs; ++i) t[i] = describe(inputs[i].type, inputs[i].dims);
    return node_->on_shape_change(t.data()) ? ok : failed;
}

std::int32_t Plugin::enqueue(nvinfer1::PluginTensorDesc const*, nvinfer1::PluginTensorDesc const*,
                             void const* const* inputs, void* const* outputs, void* workspace,
                             cudaStream_t stream) noexcept {
    return node_->enqueue(inputs, outputs, workspace, stream) ? ok : failed;
}

nvinfer1::PluginFieldCollection const* Plugin::getFieldsToSerialize() noexcept { return &collection_; }

Creator::Creator(std::int32_t (*current_device)(), Log log)
    : current_device_(current_device),
      log_(log),
      names_{nvinfer1::PluginField("causal", nullptr, PluginFieldType::kINT32, 1),
             nvinfer1::PluginField("batch_invariant", nullptr, PluginFieldType::kINT32, 1),
             nvinfer1::PluginField("softmax_scale", nullptr, PluginFieldType::kFLOAT32, 1)},
      collection_{static_cast<std::int32_t>(names_.size()), names_.data()} {}

nvinfer1::IPluginV3* Creator::createPlugin(nvinfer1::AsciiChar const*, nvinfer1::PluginFieldCollection const* given,
                                           nvinfer1::TensorRTPhase) noexcept {
    std::array<Field, DecodeNode::attributes> fields;
    const int count = given == nullptr ? 0 : given->nbFields;
    if (count > DecodeNode::attributes) return log_("too many attributes"), nullptr;
    for (int i = 0; i < count; ++i) {
        const nvinfer1::PluginField& f = given->fields[i];
        const Type type = f.length != 1                           ? Type::other
                          : f.type == PluginFieldType::kINT32   ? Type::int32
                          : f.type == PluginFieldType::kFLOAT32 ? Type::fp32
                                                                : Type::other;
        fields[static_cast<std::size_t>(i)] = {f.name, type, f.data};
    }
    auto node = DecodeNode::create(fields.data(), count, current_device_(), log_);
    return node == nullptr ? nullptr : new (std::nothrow) Plugin(std::move(node));
}

nvinfer1::PluginFieldCollection const* Creator::getFieldNames() noexcept { return &collection_; }
nvinfer1::AsciiChar const* Creator::getPluginName() const noexcept { return plugin_name; }
nvinfer1::AsciiChar const* Creator::getPluginVersion() const noexcept { return plugin_version; }
nvinfer1::AsciiChar const* Creator::getPluginNamespace() const noexcept { return plugin_namespace; }

}  // namespace mla
