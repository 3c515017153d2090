// Combines split requests, for kernels that do not do so themselves.
#include "any/combine.cuh"
#include "common/grid_dependency.cuh"
#include "flashmla_params.h"

namespace flashmla {
namespace {

constexpr int kWarps = 8;

// Of BF16: the kernels that leave their pieces to this one have no other outputs.
__device__ __forceinline__ void combine(const CombineParams& p) {
    // All pieces are there when the kernel before this one is done.
    const auto ready = [](const SplitPlan&) {};
    using Combination = Combine<Bf16, kWarps, CombineParams, decltype(ready)>;
    __shared__ float4 scratch[Combination::kScratchBytes / sizeof(float4)];
    grid_dependency_wait();
    Combination(p, scratch, ready).run(blockIdx.x, gridDim.x);
}

}  // namespace
}  // namespace flashmla

extern "C" __global__ void __launch_bounds__(flashmla::kWarps * 32, 1)
    flashmla_combine(const __grid_constant__ flashmla::CombineParams p) {
    flashmla::combine(p);
}
