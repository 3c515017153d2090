#include "any/combine.cuh"

extern "C" __global__ void __launch_bounds__(flashmla::kCombineWarps * 32)
    flashmla_combine_bf16(const __grid_constant__ flashmla::CombineParams p) {
    flashmla::combine<flashmla::Bf16>(p);
}

extern "C" __global__ void __launch_bounds__(flashmla::kCombineWarps * 32)
    flashmla_combine_fp16(const __grid_constant__ flashmla::CombineParams p) {
    flashmla::combine<flashmla::Fp16>(p);
}
