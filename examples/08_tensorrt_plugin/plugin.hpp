/*
 * DecodeNode as a TensorRT plugin: IPluginV3 with its three capabilities, and the creator. For TensorRT 11.
 *
 * The classes need TensorRT's headers alone; register.cpp makes a plugin library of them.
 */
#ifndef TENSORRT_PLUGIN_PLUGIN_HPP
#define TENSORRT_PLUGIN_PLUGIN_HPP

#include "node.hpp"

#include <NvInferRuntime.h>

namespace mla {

class Plugin final : public nvinfer1::IPluginV3,
                     public nvinfer1::IPluginV3OneCore,
                     public nvinfer1::IPluginV3OneBuild,
                     public nvinfer1::IPluginV3OneRuntime {
public:
    explicit Plugin(std::unique_ptr<DecodeNode> node);

    nvinfer1::IPluginCapability* getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept override;
    nvinfer1::IPluginV3* clone() noexcept override;

    /* Core. */
    nvinfer1::AsciiChar const* getPluginName() const noexcept override;
    nvinfer1::AsciiChar const* getPluginVersion() const noexcept override;
    nvinfer1::AsciiChar const* getPluginNamespace() const noexcept override;

    /* Build. */
    std::int32_t getNbOutputs() const noexcept override;
    std::int32_t getOutputDataTypes(nvinfer1::DataType* outputs, std::int32_t nbOutputs, nvinfer1::DataType const* inputs,
                                    std::int32_t nbInputs) const noexcept override;
    std::int32_t getOutputShapes(nvinfer1::DimsExprs const* inputs, std::int32_t nbInputs,
                                 nvinfer1::DimsExprs const* shapeInputs, std::int32_t nbShapeInputs,
                                 nvinfer1::DimsExprs* outputs, std::int32_t nbOutputs,
                                 nvinfer1::IExprBuilder& builder) noexcept override;
    bool supportsFormatCombination(std::int32_t position, nvinfer1::DynamicPluginTensorDesc const* tensors,
                                   std::int32_t nbInputs, std::int32_t nbOutputs) noexcept override;
    std::int32_t configurePlugin(nvinfer1::DynamicPluginTensorDesc const* inputs, std::int32_t nbInputs,
                                 nvinfer1::DynamicPluginTensorDesc const* outputs,
                                 std::int32_t nbOutputs) noexcept override;
    std::size_t getWorkspaceSize(nvinfer1::DynamicPluginTensorDesc const* inputs, std::int32_t nbInputs,
                                 nvinfer1::DynamicPluginTensorDesc const* outputs,
                                 std::int32_t nbOutputs) const noexcept override;

    /* Runtime. */
    std::int32_t onShapeChange(nvinfer1::PluginTensorDesc const* inputs, std::int32_t nbInputs,
                               nvinfer1::PluginTensorDesc const* outputs, std::int32_t nbOutputs) noexcept override;
    std::int32_t enqueue(nvinfer1::PluginTensorDesc const* inputDesc, nvinfer1::PluginTensorDesc const* outputDesc,
                         void const* const* inputs, void* const* outputs, void* workspace,
                         cudaStream_t stream) noexcept override;
    nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext* context) noexcept override;
    nvinfer1::PluginFieldCollection const* getFieldsToSerialize() noexcept override;

private:
    std::unique_ptr<DecodeNode> node_;
    std::array<nvinfer1::PluginField, DecodeNode::attributes> fields_;
    nvinfer1::PluginFieldCollection collection_;
};

class Creator : public nvinfer1::IPluginCreatorV3One {
public:
    /* `current_device` gives the ordinal of the device that an engine is built or loaded on. */
    Creator(std::int32_t (*current_device)(), Log log);

    nvinfer1::IPluginV3* createPlugin(nvinfer1::AsciiChar const* name, nvinfer1::PluginFieldCollection const* fields,
                                      nvinfer1::TensorRTPhase phase) noexcept override;
    nvinfer1::PluginFieldCollection const* getFieldNames() noexcept override;
    nvinfer1::AsciiChar const* getPluginName() const noexcept override;
    nvinfer1::AsciiChar const* getPluginVersion() const noexcept override;
    nvinfer1::AsciiChar const* getPluginNamespace() const noexcept override;

private:
    std::int32_t (*current_device_)();
    Log log_;
    std::array<nvinfer1::PluginField, DecodeNode::attributes> names_;
    nvinfer1::PluginFieldCollection collection_;
};

}  // namespace mla

#endif
