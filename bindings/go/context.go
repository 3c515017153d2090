package flashmla

/*
#include "outcome.h"

#cgo noescape flashmla_go_create
#cgo nocallback flashmla_go_create
static inline flashmla_go_outcome flashmla_go_create(int32_t device, int32_t cpu_threads, flashmla_context_t **out) {
	flashmla_options_t options = FLASHMLA_OPTIONS_INIT;
	options.cpu_threads = cpu_threads;
	return flashmla_go_done(flashmla_create(device, &options, out));
}

static inline flashmla_go_outcome flashmla_go_destroy(flashmla_context_t *context) {
	return flashmla_go_done(flashmla_destroy(context));
}

#cgo noescape flashmla_go_get_device_info
#cgo nocallback flashmla_go_get_device_info
static inline flashmla_go_outcome flashmla_go_get_device_info(const flashmla_context_t *context,
	flashmla_device_info_t *out) {
	out->struct_size = sizeof *out;
	return flashmla_go_done(flashmla_get_device_info(context, out));
}
*/
import "C"

import (
	"fmt"
	"math"
	"runtime"
	"sync"
)

// A Context is a CUDA device made ready, or the CPU backend. Its methods may be called from any number of goroutines
// at once, Close included. The zero Context is closed. It must not be copied.
type Context struct {
	// Held for reading during every call, so that Close waits for those that run. A method that holds it also keeps
	// the Context reachable, and so its cleanup from running.
	mutex   sync.RWMutex
	handle  *C.flashmla_context_t
	cleanup runtime.Cleanup
}

// Options of [Open]. The zero value is the default.
type Options struct {
	CPUThreads int // threads of the CPU backend; 0: one per available core
}

// DeviceInfo is what a context runs on.
type DeviceInfo struct {
	Name              string
	Device            int // the ordinal given to [Open], [CPU] for the CPU backend
	ComputeCapability int // major * 10 + minor (90 for an H100), 0 for the CPU backend
	Multiprocessors   int // or threads of the CPU backend
	DriverVersion     int // major * 1000 + minor * 10, 0 for the CPU backend
}

// Open makes a device ready: the CUDA device of that ordinal, or the CPU backend for [CPU]. options may be nil.
//
// Everything that blocks or allocates happens here, such as loading the driver and the kernels. Where there is no usable
// GPU, the error is of category [EnvironmentError] or [UnsupportedError], and [CPU] still works.
//
// Close the context when it is no longer used; one that is forgotten is closed by the garbage collector.
func Open(device int, options *Options) (*Context, error) {
	var o Options
	if options != nil {
		o = *options
	}
	// What does not fit C's 32 bits must not arrive as another number.
	if device != int(int32(device)) {
		return nil, &Error{Op: "Open", Status: ErrNoDevice, Message: fmt.Sprintf("device = %d: no such device", device)}
	}
	if o.CPUThreads != int(int32(o.CPUThreads)) {
		return nil, &Error{Op: "Open", Status: ErrInvalidArgument, Message: fmt.Sprintf(
			"options.CPUThreads = %d: must not exceed %d", o.CPUThreads, math.MaxInt32)}
	}
	var handle *C.flashmla_context_t
	err := done("Open", C.flashmla_go_create(C.int32_t(device), C.int32_t(o.CPUThreads), &handle))
	if err != nil {
		return nil, err
	}
	c := &Context{handle: handle}
	c.cleanup = runtime.AddCleanup(c, func(handle *C.flashmla_context_t) { C.flashmla_destroy(handle) }, handle)
	return c, nil
}

// Close frees the context, after the calls that other goroutines have begun. Work already on streams goes on. To close
// a closed or nil context does nothing.
func (c *Context) Close() error {
	if c == nil {
		return nil
	}
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if c.handle == nil {
		return nil
	}
	c.cleanup.Stop()
	handle := c.handle
	c.handle = nil
	return done("Close", C.flashmla_go_destroy(handle))
}

// begin holds the context open until end; where it is closed, it is not held, and the error says so.
func (c *Context) begin(op string) error {
	if c != nil {
		c.mutex.RLock()
		if c.handle != nil {
			return nil
		}
		c.mutex.RUnlock()
	}
	return &Error{Op: op, Status: ErrNullPointer, Message: "the context is closed or nil", closed: true}
}

func (c *Context) end() { c.mutex.RUnlock() }

// DeviceInfo describes the context's device.
func (c *Context) DeviceInfo() (DeviceInfo, error) {
	const op = "DeviceInfo"
	if err := c.begin(op); err != nil {
		return DeviceInfo{}, err
	}
	defer c.end()
	var info C.flashmla_device_info_t
	if err := done(op, C.flashmla_go_get_device_info(c.handle, &info)); err != nil {
		return DeviceInfo{}, err
	}
	return DeviceInfo{
		Name:              C.GoString(&info.name[0]),
		Device:            int(info.device),
		ComputeCapability: int(info.compute_capability),
		Multiprocessors:   int(info.multiprocessors),
		DriverVersion:     int(info.driver_version),
	}, nil
}
