#include "sm90/dense_decode_few/kernel.cuh"

FLASHMLA_DENSE_DECODE_FEW(flashmla_sm90_dense_decode_few_bf16_576_64, flashmla::Bf16, 576, 32, 2, Pieces)
