// Package common is device.h and reference.h in Go: memory and streams for the examples, and what is right.
package common

/*
#cgo !flashmla_by_hand pkg-config: flashmla
#cgo LDFLAGS: -ldl -lm
#include "device.h"
#include "reference.h"
#include <stdio.h>
#include <stdlib.h>

// Go does not flush what C has printed when it ends.
static device *open_here(void) {
    device *d = device_open();
    return fflush(stdout), d;
}
static int compare(const char *what, const uint16_t *out, float lse, const double *want, double want_lse) {
    const int different = compare_row(what, out, lse, want, want_lse);
    return fflush(stdout), different;
}

// Device addresses are numbers in Go.
static uintptr_t alloc(device *d, size_t bytes) { return (uintptr_t)device_alloc(d, bytes); }
static void release(device *d, uintptr_t memory) { device_free(d, (void *)memory); }
static void upload(device *d, uintptr_t to, const void *from, size_t bytes) { device_upload(d, (void *)to, from, bytes); }
static void download(device *d, void *to, uintptr_t from, size_t bytes) { device_download(d, to, (const void *)from, bytes); }
static uintptr_t stream(const device *d) { return (uintptr_t)device_stream(d); }
*/
import "C"

import (
	"unsafe"

	"flashmla"
)

const (
	DQK = C.D_QK
	DV  = C.D_V
)

// A Device is GPU 0 if libflashmla can use it, else host memory. The CUDA driver wants to be told about every thread
// that calls it: use a Device on the thread that opened it alone (runtime.LockOSThread).
type Device struct{ c *C.device }

// Open says on stdout what it took and why.
func Open() Device {
	d := C.open_here()
	if d == nil {
		panic("neither GPU nor CPU")
	}
	return Device{d}
}

// Share is the same place for the thread that calls it, with a stream of its own.
func (d Device) Share() Device { return Device{C.device_share(d.c)} }

func (d Device) Close()                  { C.device_close(d.c) }
func (d Device) IsGPU() bool             { return C.device_is_gpu(d.c) != 0 }
func (d Device) Stream() flashmla.Stream { return flashmla.Stream(C.stream(d.c)) }
func (d Device) Synchronize()            { C.device_synchronize(d.c) }

// Ordinal is what flashmla.Open takes.
func (d Device) Ordinal() int {
	if d.IsGPU() {
		return 0
	}
	return flashmla.CPU
}

func (d Device) Alloc(bytes uint64) flashmla.DevicePtr {
	return flashmla.DevicePtr(C.alloc(d.c, C.size_t(bytes)))
}

func (d Device) Free(memory flashmla.DevicePtr) { C.release(d.c, C.uintptr_t(memory)) }

func size[T flashmla.Element](slice []T) C.size_t {
	var zero T
	return C.size_t(len(slice)) * C.size_t(unsafe.Sizeof(zero))
}

// Upload copies a slice to the device; it has arrived when this returns.
func Upload[T flashmla.Element](d Device, to flashmla.DevicePtr, from []T) {
	C.upload(d.c, C.uintptr_t(to), unsafe.Pointer(unsafe.SliceData(from)), size(from))
}

// Download waits for the stream, and fills a slice.
func Download[T flashmla.Element](d Device, to []T, from flashmla.DevicePtr) {
	C.download(d.c, unsafe.Pointer(unsafe.SliceData(to)), C.uintptr_t(from), size(to))
}

// RandomBF16 fills a row from a seed other than 0, with values of the size of normalised activations.
func RandomBF16(row []uint16, seed uint64) {
	state := C.uint64_t(seed)
	for i := range row {
		row[i] = uint16(C.bf16_from_float(0.3 * C.random_float(&state)))
	}
}

// RowIsRight compares what one query row got from contiguous KV rows with plain C.
func RowIsRight(what string, q, rows, out []uint16, lse float32) bool {
	tokens := len(rows) / DQK
	pages := []int32{0} // one, as long as all of them
	var want [DV]C.double
	var wantLSE C.double
	C.reference_row((*C.uint16_t)(&q[0]), (*C.uint16_t)(unsafe.SliceData(rows)), (*C.int32_t)(&pages[0]), C.int(tokens+1),
		C.int(tokens), &want[0], &wantLSE)
	name := C.CString(what)
	defer C.free(unsafe.Pointer(name))
	return C.compare(name, (*C.uint16_t)(&out[0]), C.float(lse), &want[0], wantLSE) == 0
}
