package flashmla

import (
	"runtime"
	"unsafe"
)

// Element is what tensors in host memory are made of: 16 bits hold a BF16 or FP16, 8 bits an FP8.
type Element interface {
	~uint8 | ~int8 | ~uint16 | ~int16 | ~uint32 | ~int32 | ~uint64 | ~int64 | ~float32
}

// HostPtr gives the address of a slice's memory for a [CPU] context, and pins it: until pinner.Unpin it is neither
// moved nor freed. An empty slice has the address 0.
func HostPtr[T Element](pinner *runtime.Pinner, slice []T) DevicePtr {
	if len(slice) == 0 {
		return 0
	}
	data := unsafe.SliceData(slice)
	pinner.Pin(data)
	return DevicePtr(unsafe.Pointer(data))
}

// HostAlignment is that of [MakeHost], in bytes: enough for every tensor, plan and workspace.
const HostAlignment = 256

// MakeHost makes a slice of n zeros whose memory is aligned to [HostAlignment], as make does not promise.
func MakeHost[T Element](n int) []T {
	if n == 0 {
		return nil
	}
	var zero T
	bytes := make([]byte, n*int(unsafe.Sizeof(zero))+HostAlignment)
	data := unsafe.Pointer(unsafe.SliceData(bytes))
	skip := -uintptr(data) % HostAlignment
	return unsafe.Slice((*T)(unsafe.Add(data, skip)), n)
}
