#include "sm90/dense_decode_few/kernel.cuh"

FLASHMLA_DENSE_DECODE_FEW(flashmla_sm90_dense_decode_few_fp16_512_32_invariant, flashmla::Fp16, 512, 32, 1, InvariantPieces)
