/* A plugin library for TensorRT: loaded, it offers FlashMLADenseDecode to the registry. */
#include "plugin.hpp"

#include <cuda_runtime_api.h>

#include <cstdio>

namespace {

/* An engine is built and loaded on the current device; -2 is none. */
std::int32_t current_device() {
    int device = 0;
    return cudaGetDevice(&device) == cudaSuccess ? device : -2;
}

void log(const char* message) {
    if (nvinfer1::ILogger* logger = getLogger()) {
        logger->log(nvinfer1::ILogger::Severity::kERROR, message);
    } else {
        std::fprintf(stderr, "FlashMLADenseDecode: %s\n", message);
    }
}

/* As the registry makes it. */
class FlashMLADenseDecodeCreator final : public mla::Creator {
public:
    FlashMLADenseDecodeCreator() : Creator(current_device, log) {}
};
REGISTER_TENSORRT_PLUGIN(FlashMLADenseDecodeCreator);

}  // namespace
