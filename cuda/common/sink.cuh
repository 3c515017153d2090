// Attention sinks: of each head one more weight in the denominator, which lse does not see.
#pragma once
#include "common/numeric.cuh"
#include <cstdint>

namespace flashmla {

// That weight's base-2 logarithm, relative to a row's reference, where there are sinks (`attn_sink` is not 0).
template <class Params>
__device__ __forceinline__ float sink_log2(const Params& p, int64_t head, float reference) {
    return fmaf(reinterpret_cast<const float*>(p.attn_sink)[head * p.attn_sink_stride], kLog2E, -reference);
}

}  // namespace flashmla
