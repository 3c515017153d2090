// Package flashmla is libflashmla in Go: Multi-head Latent Attention (MLA, the attention of the DeepSeek models) for
// inference engines, on CUDA devices and on the CPU. It depends on nothing but the C library, and needs no CUDA
// headers.
//
// # Contexts, parameters, errors
//
// A [Context] is a device made ready. Any number of goroutines may use it at once. An operation takes the address of a
// struct of sizes, addresses and strides, whose zero values are the defaults, and a [Stream]:
//
//	ctx, err := flashmla.Open(0, nil) // CUDA device 0; flashmla.CPU is the CPU backend
//	...
//	defer ctx.Close()
//	err = ctx.DenseDecodePlan(&params, &plan, stream) // once a step
//	err = ctx.DenseDecode(&params, &plan, stream)     // once a layer
//
// What a function computes and what it wants of shapes, alignment and streams is written in full in flashmla.h at the
// C function of that name; this package says it in short.
//
// A failed call returns an [*Error], which carries the library's message: the argument, its value and what it must be.
// Ask with errors.Is for a [Status], such as [ErrMisaligned], or for a whole [Category], such as [CUDAError].
//
// Every operation is one call into C, and the message of a failure is fetched within it: the library keeps messages by
// thread, and a goroutine may be on another one by its next call. A call that succeeds allocates nothing in Go.
//
// # Memory
//
// A [DevicePtr] is an address as a number, and neither Go nor this package looks behind it. On a GPU it comes from your
// CUDA allocator, and the memory must stay until the stream is past the call. In a [CPU] context it is host memory:
// memory of Go must be pinned, which [HostPtr] does:
//
//	var pins runtime.Pinner
//	defer pins.Unpin()
//	params.Q.Data = flashmla.HostPtr(&pins, q)
//
// # Threads
//
// This package never needs runtime.LockOSThread: a context finds its device by itself, whatever CUDA context the
// goroutine's thread has. Streams that are not the default stream need nothing either. (The CUDA driver's own calls,
// such as cuMemAlloc, do look at the thread's current context.)
//
// # Building
//
// The package comes with the library, in <prefix>/share/flashmla/go, and fits the header beside it; a program's go.mod
// names it by
//
//	require flashmla v0.1.0
//	replace flashmla => <prefix>/share/flashmla/go
//
// The package asks pkg-config for "flashmla", which finds the installed flashmla.pc (PKG_CONFIG_PATH says where, if not
// in the usual places). Without pkg-config, build with -tags flashmla_by_hand, with CGO_CFLAGS=-I<prefix>/include and
// CGO_LDFLAGS=-L<prefix>/lib. At run time the loader looks for libflashmla.so.0 as for any library: in the usual
// folders, in LD_LIBRARY_PATH, or in an rpath that CGO_LDFLAGS=-Wl,-rpath,<folder> puts into the program. Go's build
// cache takes no notice of C headers and pkg-config files: build once with -a after the library has been upgraded or
// has moved.
package flashmla

// #cgo !flashmla_by_hand pkg-config: flashmla
// #cgo flashmla_by_hand LDFLAGS: -lflashmla
// #include <flashmla.h>
import "C"

// The version of the header that the program was built with, as [Version] gives that of the library it runs with.
const HeaderVersion = C.FLASHMLA_VERSION_MAJOR*10000 + C.FLASHMLA_VERSION_MINOR*100 + C.FLASHMLA_VERSION_PATCH

// Version returns the version of the loaded library: major * 10000 + minor * 100 + patch.
func Version() int { return int(C.flashmla_version()) }
