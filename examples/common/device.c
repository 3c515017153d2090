#define _POSIX_C_SOURCE 200809L
#include "device.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef unsigned long long address;

/* What the examples need of the driver API, by its own names. */
typedef struct driver {
    int (*Init)(unsigned);
    int (*DeviceGet)(int *, int);
    int (*DevicePrimaryCtxRetain)(void **, int);
    int (*CtxSetCurrent)(void *);
    int (*MemAlloc)(address *, size_t);
    int (*MemFree)(address);
    int (*MemcpyHtoD)(address, const void *, size_t);
    int (*MemcpyDtoH)(void *, address, size_t);
    int (*StreamCreate)(cudaStream_t *, unsigned);
    int (*StreamSynchronize)(cudaStream_t);
    int (*EventCreate)(void **, unsigned);
    int (*EventRecord)(void *, cudaStream_t);
    int (*EventSynchronize)(void *);
    int (*EventElapsedTime)(float *, void *, void *);
    int (*StreamBeginCapture)(cudaStream_t, int);
    int (*StreamEndCapture)(cudaStream_t, void **);
    int (*GraphInstantiate)(void **, void *, unsigned long long);
    int (*GraphLaunch)(void *, cudaStream_t);
} driver;

struct device {
    flashmla_context_t *context; /* NULL where device_share made it */
    int gpu;
    driver cuda;
    cudaStream_t stream;
    void *events[2];
    struct timespec started;
};

static void fail(const char *what, int code) {
    fprintf(stderr, "%s: CUDA error %d\n", what, code);
    exit(1);
}

#define CUDA(d, call)                             \
    do {                                          \
        int code = (d)->cuda.call;                \
        if (code != 0) fail("cu" #call, code);    \
    } while (0)

static int load_driver(driver *cuda) {
    static const char *const names[] = {
        "cuInit", "cuDeviceGet", "cuDevicePrimaryCtxRetain", "cuCtxSetCurrent", "cuMemAlloc_v2", "cuMemFree_v2",
        "cuMemcpyHtoD_v2", "cuMemcpyDtoH_v2", "cuStreamCreate", "cuStreamSynchronize", "cuEventCreate",
        "cuEventRecord", "cuEventSynchronize", "cuEventElapsedTime", "cuStreamBeginCapture_v2",
        "cuStreamEndCapture", "cuGraphInstantiateWithFlags", "cuGraphLaunch"};
    void *library = dlopen("libcuda.so.1", RTLD_NOW);
    void *symbols[sizeof names / sizeof names[0]];
    size_t i;
    if (library == NULL) return 0;
    for (i = 0; i < sizeof names / sizeof names[0]; ++i) {
        symbols[i] = dlsym(library, names[i]);
        if (symbols[i] == NULL) return 0;
    }
    /* ISO C has no conversion between the two kinds of pointers; POSIX promises the same representation. */
    memcpy(cuda, symbols, sizeof *cuda);
    return 1;
}

/* Makes the device's own CUDA context the thread's, and a stream. */
static void start(device *d) {
    int ordinal;
    void *primary;
    CUDA(d, Init(0));
    CUDA(d, DeviceGet(&ordinal, 0));
    CUDA(d, DevicePrimaryCtxRetain(&primary, ordinal));
    CUDA(d, CtxSetCurrent(primary));
    CUDA(d, StreamCreate(&d->stream, 1)); /* non-blocking */
    CUDA(d, EventCreate(&d->events[0], 0));
    CUDA(d, EventCreate(&d->events[1], 0));
}

device *device_open(void) {
    device *d = calloc(1, sizeof *d);
    flashmla_device_info_t info = FLASHMLA_DEVICE_INFO_INIT;
    char message[512];
    if (d == NULL) return NULL;
    if (flashmla_create(0, NULL, &d->context) == FLASHMLA_SUCCESS && load_driver(&d->cuda)) {
        d->gpu = 1;
        start(d);
    } else {
        flashmla_last_error(message, sizeof message);
        printf("no GPU: %s\n", message);
        if (flashmla_create(FLASHMLA_DEVICE_CPU, NULL, &d->context) != FLASHMLA_SUCCESS) {
            free(d);
            return NULL;
        }
    }
    check(flashmla_get_device_info(d->context, &info), "flashmla_get_device_info");
    printf("device: %s, %d %s\n", info.name, info.multiprocessors, d->gpu ? "multiprocessors" : "threads");
    return d;
}

device *device_share(const device *d) {
    device *other = calloc(1, sizeof *other);
    if (other == NULL) return NULL;
    other->gpu = d->gpu, other->cuda = d->cuda;
    if (other->gpu) start(other);
    return other;
}

void device_close(device *d) {
    check(flashmla_destroy(d->context), "flashmla_destroy");
    free(d);
}

flashmla_context_t *device_context(const device *d) { return d->context; }
int device_is_gpu(const device *d) { return d->gpu; }
cudaStream_t device_stream(const device *d) { return d->stream; }

void *device_alloc(device *d, size_t bytes) {
    void *memory = NULL;
    if (bytes == 0) return NULL;
    if (d->gpu) {
        address a;
        CUDA(d, MemAlloc(&a, bytes));
        memory = (void *)(uintptr_t)a;
    } else if (posix_memalign(&memory, 256, bytes) != 0) {
        fprintf(stderr, "out of memory\n");
        exit(1);
    }
    return memory;
}

void device_free(device *d, void *memory) {
    if (memory == NULL) return;
    if (d->gpu) {
        CUDA(d, MemFree((address)(uintptr_t)memory));
    } else {
        free(memory);
    }
}

void device_upload(device *d, void *to, const void *from, size_t bytes) {
    if (d->gpu) {
        device_synchronize(d);
        CUDA(d, MemcpyHtoD((address)(uintptr_t)to, from, bytes));
        /* From pageable memory it may return early, and our stream does not wait for the default one. */
        CUDA(d, StreamSynchronize(NULL));
    } else {
        memcpy(to, from, bytes);
    }
}

void device_download(device *d, void *to, const void *from, size_t bytes) {
    if (d->gpu) {
        device_synchronize(d);
        CUDA(d, MemcpyDtoH(to, (address)(uintptr_t)from, bytes));
    } else {
        memcpy(to, from, bytes);
    }
}

void device_synchronize(device *d) {
    if (d->gpu) CUDA(d, StreamSynchronize(d->stream));
}

void device_timer_start(device *d) {
    if (d->gpu) {
        CUDA(d, EventRecord(d->events[0], d->stream));
    } else {
        clock_gettime(CLOCK_MONOTONIC, &d->started);
    }
}

float device_timer_stop(device *d) {
    float ms;
    if (d->gpu) {
        CUDA(d, EventRecord(d->events[1], d->stream));
        CUDA(d, EventSynchronize(d->events[1]));
        CUDA(d, EventElapsedTime(&ms, d->events[0], d->events[1]));
    } else {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        ms = (float)(now.tv_sec - d->started.tv_sec) * 1e3f + (float)(now.tv_nsec - d->started.tv_nsec) * 1e-6f;
    }
    return ms;
}

int device_capture_begin(device *d) {
    if (!d->gpu) return 0;
    CUDA(d, StreamBeginCapture(d->stream, 1)); /* thread-local */
    return 1;
}

device_graph *device_capture_end(device *d) {
    void *graph, *executable;
    CUDA(d, StreamEndCapture(d->stream, &graph));
    CUDA(d, GraphInstantiate(&executable, graph, 0));
    return executable;
}

void device_graph_launch(device *d, device_graph *graph) { CUDA(d, GraphLaunch(graph, d->stream)); }

void check(flashmla_status_t status, const char *what) {
    char message[512];
    if (status == FLASHMLA_SUCCESS) return;
    flashmla_last_error(message, sizeof message);
    fprintf(stderr, "%s: %s: %s\n", what, flashmla_status_name(status), message);
    exit(1);
}
