/* Append, gather and index mapping: nonsense in, a status and a message out, on the CPU backend, nothing written. */
#include "expect.h"

static uint16_t rows[3 * 576 + 8], back[3 * 576 + 8];
static unsigned char storage[2 * 64 * 656 + 64], *cache;
static int64_t slots[3] = {5, -1, 127};
static int32_t indices[4] = {5, 128, 127, 0}, table[4] = {1, 0, 7, 0}, cu[3] = {0, 1, 3}, mapped[4];
static flashmla_context_t *context;
static flashmla_kv_cache_append_params_t append = FLASHMLA_KV_CACHE_APPEND_PARAMS_INIT, a;
static flashmla_kv_cache_gather_params_t gather = FLASHMLA_KV_CACHE_GATHER_PARAMS_INIT, g;
static flashmla_map_indices_params_t map = FLASHMLA_MAP_INDICES_PARAMS_INIT, m;

#define APPEND(change, status, message)                                                                       \
    do {                                                                                                      \
        a = append;                                                                                           \
        change;                                                                                               \
        expect_status(__LINE__, flashmla_kv_cache_append(context, &a, NULL), FLASHMLA_ERROR_##status, message); \
    } while (0)
#define GATHER(change, status, message)                                                                       \
    do {                                                                                                      \
        g = gather;                                                                                           \
        change;                                                                                               \
        expect_status(__LINE__, flashmla_kv_cache_gather(context, &g, NULL), FLASHMLA_ERROR_##status, message); \
    } while (0)
#define MAP(change, status, message)                                                                      \
    do {                                                                                                  \
        m = map;                                                                                          \
        change;                                                                                           \
        expect_status(__LINE__, flashmla_map_indices(context, &m, NULL), FLASHMLA_ERROR_##status, message); \
    } while (0)
#define CHECK(condition)                                     \
    do {                                                     \
        ++tried;                                             \
        if (!(condition)) {                                  \
            printf("line %d: not %s\n", __LINE__, #condition); \
            ++failed;                                        \
        }                                                    \
    } while (0)

static void wrong_appends(void) {
    expect_status(__LINE__, flashmla_kv_cache_append(NULL, &append, NULL), FLASHMLA_ERROR_NULL_POINTER, "context = NULL");
    expect_status(__LINE__, flashmla_kv_cache_append(context, NULL, NULL), FLASHMLA_ERROR_NULL_POINTER, "params = NULL");
    expect_status(__LINE__, flashmla_kv_cache_append(context, &append, (cudaStream_t)(void *)&a),
                  FLASHMLA_ERROR_INVALID_STREAM, "must be NULL in a CPU context");
    APPEND(a.struct_size -= 8, STRUCT_SIZE, "must be sizeof(flashmla_kv_cache_append_params_t)");
    APPEND(a.reserved = 1, INVALID_ARGUMENT, "reserved = 1: must be 0");
    APPEND(a.layout = 5, UNKNOWN_ENUM, "layout = 5");
    APPEND(a.layout = FLASHMLA_LAYOUT_V4, INVALID_SHAPE, "d_qk = 576: must be 512, as layout is FLASHMLA_LAYOUT_V4");
    APPEND(a.scale_rule = 2, UNKNOWN_ENUM, "scale_rule = 2: must be FLASHMLA_SCALE_POWER_OF_TWO (0)");
    APPEND((a.layout = FLASHMLA_LAYOUT_V4, a.d_qk = 512, a.scale_rule = FLASHMLA_SCALE_EXACT), INVALID_ARGUMENT,
           "scale_rule = 1: must be FLASHMLA_SCALE_POWER_OF_TWO (0), as FLASHMLA_LAYOUT_V4 keeps no other scales");
    APPEND(a.slot_type = 2, UNKNOWN_ENUM, "slot_type = 2: must be FLASHMLA_INDEX_INT32 (0)");
    APPEND(a.n = -1, INVALID_SHAPE, "n = -1: must be at least 0");
    APPEND(a.num_blocks = -1, INVALID_SHAPE, "num_blocks = -1");
    APPEND(a.page_block_size = 0, INVALID_SHAPE, "page_block_size = 0");
    APPEND(a.rows.data = NULL, NULL_POINTER, "rows.data = NULL");
    APPEND(a.rows.data = rows + 1, MISALIGNED, "rows.data = 0x");
    APPEND(a.slot_mapping.data = NULL, NULL_POINTER, "slot_mapping.data = NULL");
    APPEND(a.slot_mapping.data = (char *)slots + 4, MISALIGNED, "must be a multiple of 8 bytes");
    APPEND(a.kv_cache.data = NULL, NULL_POINTER, "kv_cache.data = NULL");
    APPEND(a.kv_cache.data = cache + 8, MISALIGNED, "must be a multiple of 16 bytes, which rows are copied by");
    APPEND((a.kv_cache.strides[0] = 41968, a.kv_cache.strides[1] = 1), INVALID_STRIDE, "must be at least 41984");
    APPEND((a.rows.strides[0] = 570, a.rows.strides[1] = 1), INVALID_STRIDE, "rows.strides[0] = 570");
}

static void wrong_gathers(void) {
    expect_status(__LINE__, flashmla_kv_cache_gather(NULL, &gather, NULL), FLASHMLA_ERROR_NULL_POINTER, "context = NULL");
    expect_status(__LINE__, flashmla_kv_cache_gather(context, &gather, (cudaStream_t)(void *)&a),
                  FLASHMLA_ERROR_INVALID_STREAM, "must be NULL in a CPU context");
    GATHER(g.struct_size -= 8, STRUCT_SIZE, "must be sizeof(flashmla_kv_cache_gather_params_t)");
    GATHER(g.reserved = 1, INVALID_ARGUMENT, "reserved = 1: must be 0");
    GATHER(g.layout = -1, UNKNOWN_ENUM, "layout = -1");
    GATHER(g.indices.data = NULL, NULL_POINTER, "indices.data = NULL");
    GATHER(g.block_table.data = table, INVALID_ARGUMENT, "one of them must be NULL");
    GATHER(g.b = 2, INVALID_SHAPE, "b = 2: must be 0 where indices are given");
    GATHER((g.indices.data = NULL, g.b = 2), NULL_POINTER, "cu_seqlens.data = NULL");
    GATHER((g.indices.data = NULL, g.b = 2, g.max_blocks_per_seq = 2), NULL_POINTER, "block_table.data = NULL");
    GATHER(g.max_blocks_per_seq = -1, INVALID_SHAPE, "max_blocks_per_seq = -1");
    GATHER(g.rows.data = NULL, NULL_POINTER, "rows.data = NULL");
    GATHER(g.rows.data = back + 1, MISALIGNED, "rows.data = 0x");
    GATHER((g.rows.strides[0] = 568, g.rows.strides[1] = 1), INVALID_STRIDE, "rows.strides[0] = 568: must be at least 576");
    GATHER(g.kv_cache.data = cache + 2, MISALIGNED, "kv_cache.data = 0x");
}

static void wrong_mappings(void) {
    expect_status(__LINE__, flashmla_map_indices(NULL, &map, NULL), FLASHMLA_ERROR_NULL_POINTER, "context = NULL");
    expect_status(__LINE__, flashmla_map_indices(context, &map, (cudaStream_t)(void *)&a), FLASHMLA_ERROR_INVALID_STREAM,
                  "must be NULL in a CPU context");
    MAP(m.struct_size -= 8, STRUCT_SIZE, "must be sizeof(flashmla_map_indices_params_t)");
    MAP(m.b = -1, INVALID_SHAPE, "b = -1");
    MAP(m.topk = -1, INVALID_SHAPE, "topk = -1");
    MAP(m.page_block_size = 0, INVALID_SHAPE, "page_block_size = 0");
    MAP(m.max_blocks_per_seq = 1 << 30, OVERFLOW, "max_blocks_per_seq * page_block_size");
    MAP(m.positions.data = NULL, NULL_POINTER, "positions.data = NULL");
    MAP(m.block_table.data = NULL, NULL_POINTER, "block_table.data = NULL");
    MAP(m.indices.data = NULL, NULL_POINTER, "indices.data = NULL");
    MAP(m.indices.data = (char *)mapped + 1, MISALIGNED, "indices.data = 0x");
    MAP((m.positions.strides[0] = 4, m.positions.strides[1] = 4, m.positions.strides[2] = 2), INVALID_STRIDE,
        "positions.strides[2] = 2: must be 1");
    MAP(m.cache_seqlens.data = (char *)cu + 2, MISALIGNED, "cache_seqlens.data = 0x");
}

/* Nothing above did harm. */
static void right_arguments(void) {
    rows[0] = 0x3f80, rows[2 * 576 + 575] = 0x4049;
    CHECK(flashmla_kv_cache_append(context, &append, NULL) == FLASHMLA_SUCCESS);
    /* 1 = 256 x 2^-8: the least power of two that is not below 1 / 448. */
    CHECK(cache[5 * 656] == 0x78 && ((float *)(void *)(cache + 5 * 656 + 512))[0] == 1.0f / 256);
    CHECK(flashmla_kv_cache_gather(context, &gather, NULL) == FLASHMLA_SUCCESS);
    CHECK(back[0] == 0x3f80 && back[576] == 0 && back[2 * 576 + 575] == 0x4049);
    g = gather, g.indices.data = NULL, g.b = 2, g.max_blocks_per_seq = 2, g.block_table.data = table, g.cu_seqlens.data = cu;
    CHECK(flashmla_kv_cache_gather(context, &g, NULL) == FLASHMLA_SUCCESS && back[576] == 0);
    CHECK(flashmla_map_indices(context, &map, NULL) == FLASHMLA_SUCCESS);
    CHECK(mapped[0] == 64 + 5 && mapped[1] == -1 && mapped[2] == 63 && mapped[3] == 64);
    /* Nothing to do: success, whatever the pointers. */
    a = append, a.n = 0, a.rows.data = NULL, a.slot_mapping.data = NULL, a.kv_cache.data = NULL;
    CHECK(flashmla_kv_cache_append(context, &a, NULL) == FLASHMLA_SUCCESS);
    g = gather, g.n = 0, g.rows.data = NULL, g.indices.data = NULL, g.kv_cache.data = NULL;
    CHECK(flashmla_kv_cache_gather(context, &g, NULL) == FLASHMLA_SUCCESS);
    m = map, m.topk = 0, m.positions.data = NULL, m.block_table.data = NULL, m.indices.data = NULL;
    CHECK(flashmla_map_indices(context, &m, NULL) == FLASHMLA_SUCCESS);
}

int main(void) {
    if (flashmla_create(FLASHMLA_DEVICE_CPU, NULL, &context) != FLASHMLA_SUCCESS) return 1;
    must_stay(storage, sizeof storage), must_stay(back, sizeof back), must_stay(mapped, sizeof mapped);
    cache = storage + (64 - (size_t)storage % 64) % 64;
    append.layout = gather.layout = FLASHMLA_LAYOUT_V32, append.slot_type = FLASHMLA_INDEX_INT64;
    append.n = gather.n = 3, append.d_qk = gather.d_qk = 576;
    append.num_blocks = gather.num_blocks = map.num_blocks = 2;
    append.page_block_size = gather.page_block_size = map.page_block_size = 64;
    append.rows.data = rows, append.slot_mapping.data = slots, append.kv_cache.data = cache;
    gather.kv_cache.data = cache, gather.indices.data = indices, gather.rows.data = back;
    map.b = map.s_q = 1, map.topk = 4, map.max_blocks_per_seq = 2;
    map.positions.data = indices, map.block_table.data = table, map.indices.data = mapped;

    wrong_appends();
    wrong_gathers();
    wrong_mappings();
    right_arguments();
    flashmla_destroy(context);
    printf("cache operations: %d of %d as expected\n", tried - failed, tried);
    return failed != 0;
}
