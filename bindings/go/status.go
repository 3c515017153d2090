package flashmla

// #include "outcome.h"
import "C"

import (
	"errors"
	"fmt"
	"unsafe"
)

// A Status is what the C library answers. It is an error that an [*Error] wraps:
//
//	if errors.Is(err, flashmla.ErrBufferTooSmall) { ... }
//
// A newer library may give others than those below; they arrive with their numbers.
type Status int32

// The statuses. ErrCUDA stands for every refusal of the CUDA driver: the status is ErrCUDA plus the driver's CUresult,
// which [Status.CUDAResult] gives, and errors.Is(err, ErrCUDA) holds for all of them.
const (
	Success              Status = C.FLASHMLA_SUCCESS
	ErrInvalidArgument   Status = C.FLASHMLA_ERROR_INVALID_ARGUMENT
	ErrNullPointer       Status = C.FLASHMLA_ERROR_NULL_POINTER
	ErrStructSize        Status = C.FLASHMLA_ERROR_STRUCT_SIZE
	ErrInvalidShape      Status = C.FLASHMLA_ERROR_INVALID_SHAPE
	ErrInvalidStride     Status = C.FLASHMLA_ERROR_INVALID_STRIDE
	ErrMisaligned        Status = C.FLASHMLA_ERROR_MISALIGNED
	ErrUnknownEnum       Status = C.FLASHMLA_ERROR_UNKNOWN_ENUM
	ErrOverflow          Status = C.FLASHMLA_ERROR_OVERFLOW
	ErrBufferTooSmall    Status = C.FLASHMLA_ERROR_BUFFER_TOO_SMALL
	ErrPlanMismatch      Status = C.FLASHMLA_ERROR_PLAN_MISMATCH
	ErrInvalidStream     Status = C.FLASHMLA_ERROR_INVALID_STREAM
	ErrUnsupported       Status = C.FLASHMLA_ERROR_UNSUPPORTED
	ErrUnsupportedDevice Status = C.FLASHMLA_ERROR_UNSUPPORTED_DEVICE
	ErrNoDriver          Status = C.FLASHMLA_ERROR_NO_DRIVER
	ErrDriverTooOld      Status = C.FLASHMLA_ERROR_DRIVER_TOO_OLD
	ErrNoDevice          Status = C.FLASHMLA_ERROR_NO_DEVICE
	ErrNoKernels         Status = C.FLASHMLA_ERROR_NO_KERNELS
	ErrCUDA              Status = C.FLASHMLA_ERROR_CUDA
	ErrInternal          Status = C.FLASHMLA_ERROR_INTERNAL
	ErrPanic             Status = C.FLASHMLA_ERROR_PANIC
)

// String is the name of the status in flashmla.h.
func (s Status) String() string { return C.GoString(C.flashmla_status_name(C.flashmla_status_t(s))) }

// Error is String.
func (s Status) Error() string { return s.String() }

// Category is the thousands of the status: who has to do something about it.
func (s Status) Category() Category { return Category(s / 1000) }

// CUDAResult is the CUresult that the driver gave; 0 where the status is none of [CUDAError], or none is known.
func (s Status) CUDAResult() int {
	if s.Category() != CUDAError {
		return 0
	}
	return int(s - ErrCUDA)
}

// Is holds for the status's category, too, and for ErrCUDA where that is the category. It serves errors.Is.
func (s Status) Is(target error) bool {
	switch t := target.(type) {
	case Category:
		return s.Category() == t
	case Status:
		return s == t || t == ErrCUDA && s.Category() == CUDAError
	}
	return false
}

// A Category says who has to do something about a failure. It is an error for errors.Is:
//
//	if errors.Is(err, flashmla.EnvironmentError) { useTheCPU() }
type Category int32

// The categories.
const (
	NoError          Category = 0
	ArgumentError    Category = 1 // the caller's code
	UnsupportedError Category = 2 // another device, or another way to compute it
	EnvironmentError Category = 3 // driver, devices, how the library was built
	CUDAError        Category = 4 // the driver refused; often what an earlier kernel did
	InternalError    Category = 5 // a defect of the library
)

// String is a word or two for messages.
func (c Category) String() string {
	switch c {
	case NoError:
		return "no error"
	case ArgumentError:
		return "argument error"
	case UnsupportedError:
		return "unsupported"
	case EnvironmentError:
		return "environment error"
	case CUDAError:
		return "CUDA error"
	case InternalError:
		return "internal error"
	}
	return fmt.Sprintf("error of category %d", int32(c))
}

// Error is String.
func (c Category) Error() string { return c.String() }

// ErrClosed is what errors.Is finds in the error of a call on a nil or closed [Context].
var ErrClosed = errors.New("flashmla: the context is closed")

// An Error is a call that failed. Nothing was launched, and no output written.
type Error struct {
	Op      string // the method, such as "DenseDecode"
	Status  Status
	Message string // the library's: the argument, its value, what it must be
	closed  bool
}

// Error is "flashmla: Op: message (name of the status)".
func (e *Error) Error() string {
	return fmt.Sprintf("flashmla: %s: %s (%s)", e.Op, e.Message, e.Status)
}

// Category is that of the status.
func (e *Error) Category() Category { return e.Status.Category() }

// Unwrap gives the status, for errors.Is and errors.As.
func (e *Error) Unwrap() error { return e.Status }

// Is holds for [ErrClosed] where that was the reason. It serves errors.Is.
func (e *Error) Is(target error) bool { return e.closed && target == ErrClosed }

func done(op string, outcome C.flashmla_go_outcome) error {
	if outcome.status == C.FLASHMLA_SUCCESS {
		return nil
	}
	return failed(op, outcome)
}

func failed(op string, outcome C.flashmla_go_outcome) error {
	message := C.GoString(outcome.message)
	C.free(unsafe.Pointer(outcome.message))
	return &Error{Op: op, Status: Status(outcome.status), Message: message}
}
