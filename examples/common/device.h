/*
 * Device memory for the examples: the CUDA driver where there is one, host memory otherwise. An engine has
 * its own allocator and streams; nothing here belongs to libflashmla.
 */
#ifndef EXAMPLES_DEVICE_H
#define EXAMPLES_DEVICE_H

#include <flashmla.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct device device;
typedef struct device_graph device_graph;

/* Device 0 if libflashmla can use it, else its CPU backend; says on stdout what it took and why. NULL: neither. */
device *device_open(void);
void device_close(device *d);
/* The same place with a stream of its own, for another thread: to be called on that thread, which the CUDA driver
 * wants to be told about. It has no context of libflashmla's. */
device *device_share(const device *d);

flashmla_context_t *device_context(const device *d);
int device_is_gpu(const device *d);
cudaStream_t device_stream(const device *d);

/* Exit the program with a message if the driver refuses. */
void *device_alloc(device *d, size_t bytes);
void device_free(device *d, void *memory);
void device_upload(device *d, void *to, const void *from, size_t bytes);
void device_download(device *d, void *to, const void *from, size_t bytes);
void device_synchronize(device *d);

/* Milliseconds that the work between the two calls took. */
void device_timer_start(device *d);
float device_timer_stop(device *d);

/* A CUDA graph of what is launched on the stream between the two calls; on the CPU there is none, and
 * device_capture_begin returns 0. */
int device_capture_begin(device *d);
device_graph *device_capture_end(device *d);
void device_graph_launch(device *d, device_graph *graph);

/* Exits with the message of the last error if `status` is one. */
void check(flashmla_status_t status, const char *what);

#ifdef __cplusplus
}
#endif

#endif
