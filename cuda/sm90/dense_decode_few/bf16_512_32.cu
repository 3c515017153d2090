#include "sm90/dense_decode_few/kernel.cuh"

FLASHMLA_DENSE_DECODE_FEW(flashmla_sm90_dense_decode_few_bf16_512_32, flashmla::Bf16, 512, 32, 1, Pieces)
