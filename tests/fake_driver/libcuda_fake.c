/* A stand-in for the CUDA driver, for tests on machines without one: built as libcuda.so.1.
 *
 * It runs no kernel. It checks what a driver checks about contexts, streams, launches and tensor maps,
 * records every call, and fails where it is told to. Settings come from the environment when it is
 * loaded (FAKE_CUDA_VERSION, FAKE_CUDA_DEVICES, FAKE_CUDA_CAPABILITY, FAKE_CUDA_MULTIPROCESSORS, and
 * FAKE_CUDA_FAIL as "function:nth:code") and from the fake_* functions below.
 *
 * The image of a library is text: a line for each kernel, its name and the sizes of its parameters.
 * A real fatbin is accepted too: then any kernel name is found, and no parameters are recorded. */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint32_t CUresult;
enum {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    NOT_INITIALIZED = 3,
    NO_DEVICE = 100,
    INVALID_DEVICE = 101,
    INVALID_IMAGE = 200,
    INVALID_CONTEXT = 201,
    INVALID_HANDLE = 400,
    NOT_FOUND = 500,
    INVALID_CLUSTER_SIZE = 912
};

enum { MAX_DEVICES = 8, MAX_KERNELS = 64, MAX_LIBRARIES = 64, MAX_PARAMETERS = 8, MAX_DEPTH = 16 };
enum { FIRST_DEVICE = 100 };  /* device handles are not ordinals */
enum { DEFAULT_SHARED_BYTES = 48 * 1024, MAX_SHARED_BYTES = 227 * 1024 };

/* ---- State ---- */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static struct setting {
    const char *name, *variable;
    long value;
} settings[] = {
    {"version", "FAKE_CUDA_VERSION", 13000},
    {"devices", "FAKE_CUDA_DEVICES", 1},
    {"capability", "FAKE_CUDA_CAPABILITY", 90},
    {"multiprocessors", "FAKE_CUDA_MULTIPROCESSORS", 132},
};
enum { VERSION, DEVICES, CAPABILITY, MULTIPROCESSORS, SETTINGS };

struct context {
    int ordinal, usable;
};
struct stream {
    struct context *context;
};
struct kernel {
    char name[64];
    int parameters, sizes[MAX_PARAMETERS];
    int shared_bytes[MAX_DEVICES], loaded[MAX_DEVICES];
};
struct library {
    int any_name, kernels;
    struct kernel kernel[MAX_KERNELS];
};

static int initialized;
static int retained[MAX_DEVICES];
static struct context primary[MAX_DEVICES];
static struct context others[MAX_DEVICES];
static struct stream streams[2 * MAX_DEVICES]; /* of the primary contexts, then of the others */
static struct library libraries[MAX_LIBRARIES];
static int library_count;

static __thread struct context *stack[MAX_DEPTH];
static __thread int depth;

/* ---- The record ---- */

static struct call {
    const char *function;
    struct call *next;
} *calls, **calls_end = &calls;

struct fake_launch {
    char kernel[64];
    uint32_t grid[3], block[3], cluster[3];
    uint32_t shared_bytes, overlaps, attributes, parameter_bytes;
    int32_t device, primary_context;
    uint64_t stream;
    uint8_t parameters[1024];
};
static struct fake_launch *launches;
static int launch_count, launch_room;

/* ---- Scripted failures ---- */

enum { MAX_FAILURES = 4 };
static struct failure {
    char function[64];
    int nth; /* counts down; 0: every call */
    CUresult code;
} failures[MAX_FAILURES];

/* Records a call; what it must return, if that is scripted. Holds the lock. */
static CUresult begin(const char *function) {
    pthread_mutex_lock(&lock);
    struct call *call = malloc(sizeof *call);
    if (!call) abort();
    call->function = function;
    call->next = NULL;
    *calls_end = call;
    calls_end = &call->next;
    for (struct failure *f = failures; f < failures + MAX_FAILURES; ++f) {
        if (!f->code || strcmp(f->function, function) != 0) continue;
        if (f->nth == 0) return f->code;
        if (--f->nth == 0) {
            const CUresult code = f->code;
            f->code = 0;
            return code;
        }
    }
    return SUCCESS;
}

static CUresult end(CUresult result) {
    pthread_mutex_unlock(&lock);
    return result;
}

#define BEGIN                              \
    do {                                   \
        CUresult scripted = begin(__func__); \
        if (scripted) return end(scripted); \
    } while (0)
#define REQUIRE(condition, code)              \
    do {                                      \
        if (!(condition)) return end(code);   \
    } while (0)

/* ---- Control, for tests ---- */

void fake_set(const char *name, long value) {
    pthread_mutex_lock(&lock);
    int i = 0;
    while (i < SETTINGS && strcmp(settings[i].name, name) != 0) ++i;
    if (i == SETTINGS) abort();
    settings[i].value = value;
    pthread_mutex_unlock(&lock);
}

/* The nth call of a function from now fails; 0: all do. */
void fake_fail(const char *function, int nth, CUresult code) {
    pthread_mutex_lock(&lock);
    struct failure *f = failures;
    while (f < failures + MAX_FAILURES && f->code) ++f;
    if (f == failures + MAX_FAILURES) abort();
    snprintf(f->function, sizeof f->function, "%s", function);
    f->nth = nth;
    f->code = code;
    pthread_mutex_unlock(&lock);
}

void fake_fail_no_more(void) {
    pthread_mutex_lock(&lock);
    memset(failures, 0, sizeof failures);
    pthread_mutex_unlock(&lock);
}

/* Forgets calls and launches. */
void fake_forget(void) {
    pthread_mutex_lock(&lock);
    while (calls) {
        struct call *next = calls->next;
        free(calls);
        calls = next;
    }
    calls_end = &calls;
    launch_count = 0;
    pthread_mutex_unlock(&lock);
}

/* The name of the nth call, from 0, of any thread; NULL behind the last. */
const char *fake_call(int n) {
    pthread_mutex_lock(&lock);
    struct call *call = calls;
    while (call && n-- > 0) call = call->next;
    pthread_mutex_unlock(&lock);
    return call ? call->function : NULL;
}

/* Copies the nth launch, from 0; 0 behind the last. */
int fake_launch(int n, struct fake_launch *out) {
    pthread_mutex_lock(&lock);
    int found = n < launch_count;
    if (found) *out = launches[n];
    pthread_mutex_unlock(&lock);
    return found;
}

/* How often a device's primary context is retained. */
int fake_retained(int ordinal) { return retained[ordinal]; }

/* Contexts on this thread's stack, and the one on top. */
int fake_depth(void) { return depth; }
void *fake_current(void) { return depth > 0 ? stack[depth - 1] : NULL; }

/* Makes a context current for this thread in place of all others; NULL: none. */
void fake_make_current(void *context) {
    depth = 0;
    if (context) stack[depth++] = context;
}

/* Kernels loaded for a device. */
int fake_loaded(int ordinal) {
    int count = 0;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < library_count; ++i)
        for (int k = 0; k < libraries[i].kernels; ++k) count += libraries[i].kernel[k].loaded[ordinal];
    pthread_mutex_unlock(&lock);
    return count;
}

void *fake_primary_context(int ordinal) { return &primary[ordinal]; }

/* A context of a device that is not its primary one. */
void *fake_context(int ordinal) {
    others[ordinal].ordinal = ordinal;
    others[ordinal].usable = 1;
    return &others[ordinal];
}

/* A stream of a device's primary context, or of its other one. */
void *fake_stream(int ordinal, int of_primary) {
    struct stream *stream = &streams[of_primary ? ordinal : MAX_DEVICES + ordinal];
    stream->context = of_primary ? &primary[ordinal] : fake_context(ordinal);
    return stream;
}

__attribute__((constructor)) static void read_environment(void) {
    for (int i = 0; i < SETTINGS; ++i) {
        const char *text = getenv(settings[i].variable);
        if (text) settings[i].value = atol(text);
    }
    const char *text = getenv("FAKE_CUDA_FAIL");
    if (text && sscanf(text, "%63[^:]:%d:%u", failures[0].function, &failures[0].nth, &failures[0].code) != 3) {
        fprintf(stderr, "FAKE_CUDA_FAIL = %s: must be function:nth:code\n", text);
        abort();
    }
}

/* ---- The driver ---- */

CUresult cuDriverGetVersion(int *version) {
    BEGIN;
    *version = (int)settings[VERSION].value;
    return end(SUCCESS);
}

CUresult cuInit(unsigned flags) {
    BEGIN;
    REQUIRE(flags == 0, INVALID_VALUE);
    REQUIRE(settings[DEVICES].value > 0, NO_DEVICE);
    initialized = 1;
    return end(SUCCESS);
}

CUresult cuGetErrorName(CUresult code, const char **name) {
    static const struct {
        CUresult code;
        const char *name;
    } names[] = {
        {1, "CUDA_ERROR_INVALID_VALUE"},      {2, "CUDA_ERROR_OUT_OF_MEMORY"},
        {100, "CUDA_ERROR_NO_DEVICE"},        {201, "CUDA_ERROR_INVALID_CONTEXT"},
        {209, "CUDA_ERROR_NO_BINARY_FOR_GPU"}, {400, "CUDA_ERROR_INVALID_HANDLE"},
        {500, "CUDA_ERROR_NOT_FOUND"},        {700, "CUDA_ERROR_ILLEGAL_ADDRESS"},
        {900, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"},
    };
    BEGIN;
    *name = NULL;
    for (size_t i = 0; i < sizeof names / sizeof *names; ++i)
        if (names[i].code == code) *name = names[i].name;
    return end(*name ? SUCCESS : INVALID_VALUE);
}

static int ordinal_of(int device) {
    int ordinal = device - FIRST_DEVICE;
    return ordinal >= 0 && ordinal < settings[DEVICES].value && ordinal < MAX_DEVICES ? ordinal : -1;
}

CUresult cuDeviceGetCount(int *count) {
    BEGIN;
    REQUIRE(initialized, NOT_INITIALIZED);
    *count = (int)settings[DEVICES].value;
    return end(SUCCESS);
}

CUresult cuDeviceGet(int *device, int ordinal) {
    BEGIN;
    REQUIRE(initialized, NOT_INITIALIZED);
    REQUIRE(ordinal >= 0 && ordinal < settings[DEVICES].value, INVALID_DEVICE);
    *device = FIRST_DEVICE + ordinal;
    return end(SUCCESS);
}

CUresult cuDeviceGetName(char *name, int size, int device) {
    BEGIN;
    REQUIRE(ordinal_of(device) >= 0, INVALID_DEVICE);
    REQUIRE(name && size > 0, INVALID_VALUE);
    snprintf(name, (size_t)size, "Fake GPU %d", ordinal_of(device));
    return end(SUCCESS);
}

CUresult cuDeviceGetAttribute(int *value, int attribute, int device) {
    BEGIN;
    REQUIRE(ordinal_of(device) >= 0, INVALID_DEVICE);
    switch (attribute) {
        case 16: *value = (int)settings[MULTIPROCESSORS].value; break;
        case 75: *value = (int)settings[CAPABILITY].value / 10; break;
        case 76: *value = (int)settings[CAPABILITY].value % 10; break;
        default: return end(INVALID_VALUE);
    }
    return end(SUCCESS);
}

CUresult cuDevicePrimaryCtxRetain(void **context, int device) {
    BEGIN;
    int ordinal = ordinal_of(device);
    REQUIRE(ordinal >= 0, INVALID_DEVICE);
    ++retained[ordinal];
    primary[ordinal].ordinal = ordinal;
    primary[ordinal].usable = 1;
    *context = &primary[ordinal];
    return end(SUCCESS);
}

static struct context *current(void) { return fake_current(); }

CUresult cuCtxGetCurrent(void **context) {
    BEGIN;
    REQUIRE(initialized, NOT_INITIALIZED);
    *context = current();
    return end(SUCCESS);
}

CUresult cuCtxGetDevice(int *device) {
    BEGIN;
    REQUIRE(current(), INVALID_CONTEXT);
    *device = FIRST_DEVICE + current()->ordinal;
    return end(SUCCESS);
}

CUresult cuCtxPushCurrent_v2(void *context) {
    BEGIN;
    REQUIRE(context && ((struct context *)context)->usable && depth < MAX_DEPTH, INVALID_CONTEXT);
    stack[depth++] = context;
    return end(SUCCESS);
}

CUresult cuCtxPopCurrent_v2(void **context) {
    BEGIN;
    REQUIRE(depth > 0, INVALID_CONTEXT);
    *context = stack[--depth];
    return end(SUCCESS);
}

/* Reads the lines of an image. */
static int parse(struct library *library, const char *image) {
    library->any_name = *(const uint32_t *)(const void *)image == 0xBA55ED50u;
    if (library->any_name) return 1;
    while (*image) {
        if (library->kernels == MAX_KERNELS) return 0;
        struct kernel *kernel = &library->kernel[library->kernels++];
        int used = 0;
        if (sscanf(image, "%63s%n", kernel->name, &used) != 1) return 0;
        image += used;
        while (*image == ' ') {
            if (kernel->parameters == MAX_PARAMETERS) return 0;
            kernel->sizes[kernel->parameters++] = (int)strtol(image, (char **)&image, 10);
        }
        if (*image != '\n') return 0;
        ++image;
    }
    return 1;
}

CUresult cuLibraryLoadData(void **library, const void *image, int *jit_options, void **jit_values, unsigned jit_count,
                           int *options, void **values, unsigned count) {
    BEGIN;
    REQUIRE(initialized, NOT_INITIALIZED);
    REQUIRE(image && jit_count == 0 && count == 0 && library_count < MAX_LIBRARIES, INVALID_VALUE);
    (void)jit_options, (void)jit_values, (void)options, (void)values;
    struct library *made = &libraries[library_count];
    memset(made, 0, sizeof *made);
    REQUIRE(parse(made, image), INVALID_IMAGE);
    ++library_count;
    *library = made;
    return end(SUCCESS);
}

CUresult cuLibraryGetKernel(void **kernel, void *handle, const char *name) {
    BEGIN;
    struct library *library = handle;
    REQUIRE(library >= libraries && library < libraries + library_count, INVALID_HANDLE);
    for (int i = 0; i < library->kernels; ++i) {
        if (strcmp(library->kernel[i].name, name) != 0) continue;
        *kernel = &library->kernel[i];
        return end(SUCCESS);
    }
    REQUIRE(library->any_name && library->kernels < MAX_KERNELS, NOT_FOUND);
    struct kernel *made = &library->kernel[library->kernels++];
    snprintf(made->name, sizeof made->name, "%s", name);
    *kernel = made;
    return end(SUCCESS);
}

static struct kernel *kernel_of(void *handle) {
    for (int i = 0; i < library_count; ++i)
        for (int k = 0; k < libraries[i].kernels; ++k)
            if (&libraries[i].kernel[k] == handle) return handle;
    return NULL;
}

CUresult cuKernelSetAttribute(int attribute, int value, void *handle, int device) {
    BEGIN;
    struct kernel *kernel = kernel_of(handle);
    REQUIRE(kernel, INVALID_HANDLE);
    REQUIRE(ordinal_of(device) >= 0, INVALID_DEVICE);
    /* Large clusters. */
    if (attribute == 14 && value == 1) return end(SUCCESS);
    REQUIRE(attribute == 8 && value >= 0 && value <= MAX_SHARED_BYTES, INVALID_VALUE);
    kernel->shared_bytes[ordinal_of(device)] = value;
    return end(SUCCESS);
}

CUresult cuKernelGetFunction(void **function, void *handle) {
    BEGIN;
    REQUIRE(kernel_of(handle), INVALID_HANDLE);
    REQUIRE(current(), INVALID_CONTEXT);
    *function = handle;
    return end(SUCCESS);
}

CUresult cuFuncLoad(void *function) {
    BEGIN;
    REQUIRE(kernel_of(function), INVALID_HANDLE);
    REQUIRE(current(), INVALID_CONTEXT);
    kernel_of(function)->loaded[current()->ordinal] = 1;
    return end(SUCCESS);
}

/* As the driver API lays them out. */
struct attribute {
    uint32_t id, pad;
    union {
        char bytes[64];
        uint32_t dimension[3];
        int flag;
    } value;
};
struct config {
    uint32_t grid[3], block[3], shared_bytes;
    void *stream;
    struct attribute *attributes;
    uint32_t count;
};
enum { CLUSTER_DIMENSION = 4, PROGRAMMATIC_STREAM_SERIALIZATION = 6 };

/* As an H100 does it, whose multiprocessors come in groups of 16 and 18. */
CUresult cuOccupancyMaxActiveClusters(int *clusters, void *function, const struct config *config) {
    BEGIN;
    REQUIRE(kernel_of(function), INVALID_HANDLE);
    REQUIRE(current(), INVALID_CONTEXT);
    REQUIRE(config->count == 1 && config->attributes[0].id == CLUSTER_DIMENSION, INVALID_VALUE);
    const uint32_t blocks = config->attributes[0].value.dimension[0];
    REQUIRE(config->grid[0] == blocks, INVALID_VALUE);
    if (blocks > 16) return end(INVALID_CLUSTER_SIZE);
    const int lost = blocks == 2 ? 0 : blocks == 4 ? 3 : blocks == 9 ? 5 : 1;
    *clusters = (int)settings[MULTIPROCESSORS].value / (int)blocks - lost;
    return end(SUCCESS);
}

/* The context in which a stream runs; NULL if there is none. */
static struct context *context_of(void *handle) {
    if ((uintptr_t)handle <= 2) return current();
    struct stream *stream = handle;
    return stream >= streams && stream < streams + 2 * MAX_DEVICES ? stream->context : NULL;
}

CUresult cuLaunchKernelEx(const struct config *config, void *handle, void **parameters, void **extra) {
    BEGIN;
    struct kernel *kernel = kernel_of(handle);
    REQUIRE(kernel && !extra, INVALID_HANDLE);
    struct context *context = context_of(config->stream);
    REQUIRE(context && context->usable, INVALID_CONTEXT);

    struct fake_launch launch = {0};
    memcpy(launch.kernel, kernel->name, sizeof launch.kernel);
    memcpy(launch.grid, config->grid, sizeof launch.grid);
    memcpy(launch.block, config->block, sizeof launch.block);
    launch.cluster[0] = launch.cluster[1] = launch.cluster[2] = 1;
    launch.shared_bytes = config->shared_bytes;
    launch.attributes = config->count;
    launch.device = context->ordinal;
    launch.primary_context = context == &primary[context->ordinal];
    launch.stream = (uint64_t)(uintptr_t)config->stream;
    for (uint32_t i = 0; i < config->count; ++i) {
        const struct attribute *attribute = &config->attributes[i];
        switch (attribute->id) {
            case CLUSTER_DIMENSION: memcpy(launch.cluster, attribute->value.dimension, sizeof launch.cluster); break;
            case PROGRAMMATIC_STREAM_SERIALIZATION: launch.overlaps = (uint32_t)attribute->value.flag; break;
            default: return end(INVALID_VALUE);
        }
    }
    uint64_t threads = 1;
    for (int i = 0; i < 3; ++i) {
        const uint32_t most = i == 0 ? INT32_MAX : 65535;
        REQUIRE(launch.grid[i] >= 1 && launch.grid[i] <= most && launch.block[i] >= 1, INVALID_VALUE);
        REQUIRE(launch.cluster[i] >= 1 && launch.grid[i] % launch.cluster[i] == 0, INVALID_VALUE);
        threads *= launch.block[i];
    }
    const int allowed = kernel->shared_bytes[context->ordinal];
    REQUIRE(threads <= 1024, INVALID_VALUE);
    REQUIRE(launch.shared_bytes <= (uint32_t)(allowed ? allowed : DEFAULT_SHARED_BYTES), INVALID_VALUE);
    for (int i = 0; i < kernel->parameters; ++i) {
        const size_t size = (size_t)kernel->sizes[i];
        REQUIRE(launch.parameter_bytes + size <= sizeof launch.parameters, INVALID_VALUE);
        memcpy(launch.parameters + launch.parameter_bytes, parameters[i], size);
        launch.parameter_bytes += (uint32_t)size;
    }
    if (launch_count == launch_room) {
        launch_room = launch_room ? 2 * launch_room : 64;
        launches = realloc(launches, (size_t)launch_room * sizeof *launches);
        if (!launches) abort();
    }
    launches[launch_count++] = launch;
    return end(SUCCESS);
}

enum { MAX_RANK = 5 };

/* What a tensor map holds here, in the 128 bytes of the real one. */
struct tensor_map {
    uint64_t address, strides[MAX_RANK - 1];
    uint32_t sizes[MAX_RANK], tile[MAX_RANK];
    uint32_t type, rank, interleave, swizzle, promotion, fill;
};

CUresult cuTensorMapEncodeTiled(void *out, uint32_t type, uint32_t rank, void *address, const uint64_t *sizes,
                                const uint64_t *strides, const uint32_t *tile, const uint32_t *steps,
                                uint32_t interleave, uint32_t swizzle, uint32_t promotion, uint32_t fill) {
    BEGIN;
    /* A driver needs a context for this, though nothing of it goes into the map. */
    REQUIRE(current(), INVALID_CONTEXT);
    REQUIRE(out && (uintptr_t)out % 64 == 0 && rank >= 1 && rank <= MAX_RANK, INVALID_VALUE);
    REQUIRE(address && (uintptr_t)address % 16 == 0, INVALID_VALUE);
    REQUIRE(type == 6 || type == 9, INVALID_VALUE);
    /* A row of a tile spans the swizzle. */
    REQUIRE(swizzle != 3 || tile[0] * 2 <= 128, INVALID_VALUE);
    struct tensor_map map = {.address = (uint64_t)(uintptr_t)address,
                             .type = type,
                             .rank = rank,
                             .interleave = interleave,
                             .swizzle = swizzle,
                             .promotion = promotion,
                             .fill = fill};
    for (uint32_t i = 0; i < rank; ++i) {
        REQUIRE(sizes[i] >= 1 && sizes[i] <= (uint64_t)1 << 32, INVALID_VALUE);
        REQUIRE(tile[i] >= 1 && tile[i] <= 256 && steps[i] == 1, INVALID_VALUE);
        map.sizes[i] = (uint32_t)sizes[i];
        map.tile[i] = tile[i];
        /* The innermost stride is one element, and is not told. */
        if (i + 1 == rank) continue;
        REQUIRE(strides[i] % 16 == 0 && strides[i] >= 16 && strides[i] < (uint64_t)1 << 40, INVALID_VALUE);
        map.strides[i] = strides[i];
    }
    memset(out, 0, 128);
    memcpy(out, &map, sizeof map);
    return end(SUCCESS);
}
