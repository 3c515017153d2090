package flashmla

// #include <flashmla.h>
import "C"

// CPU is the ordinal of the CPU backend, for [Open].
const CPU = C.FLASHMLA_DEVICE_CPU

// A DevicePtr is an address in device memory; in a [CPU] context in host memory, see [HostPtr]. 0 is no address.
type DevicePtr uintptr

// A Stream is a cudaStream_t (or CUstream) as a number. 0 is the default stream, and all that a [CPU] context takes.
type Stream uintptr

// A Dtype is the type of elements.
type Dtype int32

const (
	BF16 Dtype = C.FLASHMLA_DTYPE_BF16 // bfloat16, the default
	FP16 Dtype = C.FLASHMLA_DTYPE_FP16 // IEEE half precision
)

// A Layout is how a cache stores its tokens.
type Layout int32

// The layouts. Tensors of FP8 pages are bytes, [NumBlocks, bytes of a page].
const (
	// Pages of plain rows, [NumBlocks, PageBlockSize, HKV, DQK].
	LayoutPlain Layout = C.FLASHMLA_LAYOUT_PLAIN
	// FP8 with FP32 scales, DQK 576, 656 bytes a token.
	LayoutV32 Layout = C.FLASHMLA_LAYOUT_V32
	// FP8 with e8m0 scales, DQK 512, 584 bytes a token; a page holds all data rows, then all scale rows.
	LayoutV4 Layout = C.FLASHMLA_LAYOUT_V4
)

// A ScaleRule is how the scale of a group of FP8 elements is chosen.
type ScaleRule int32

// The rules.
const (
	// The least power of two that is not below max / 448.
	ScalePowerOfTwo ScaleRule = C.FLASHMLA_SCALE_POWER_OF_TWO
	// max / 448 in float32; LayoutV32 alone can hold it.
	ScaleExact ScaleRule = C.FLASHMLA_SCALE_EXACT
)

// An IndexType is the type of a tensor of indices.
type IndexType int32

// The types.
const (
	Int32 IndexType = C.FLASHMLA_INDEX_INT32 // the default
	Int64 IndexType = C.FLASHMLA_INDEX_INT64
)

// Flags of an operation, combined by |.
type Flags uint32

const (
	// Query token i of s_q sees keys 0 to s_k - s_q + i.
	Causal Flags = C.FLASHMLA_FLAG_CAUSAL
	// A query with no attended token gets lse = +inf (upstream FlashMLA's convention), not -inf.
	LSEEmptyPosInf Flags = C.FLASHMLA_FLAG_LSE_EMPTY_POS_INF
	// A request's result does not depend, to the bit, on what else is in the batch.
	BatchInvariant Flags = C.FLASHMLA_FLAG_BATCH_INVARIANT
)

// A Tensor is an input or output: where its element 0 is, and its strides in elements, outermost first. Unused strides
// are 0; all 0 means contiguous.
type Tensor struct {
	Data    DevicePtr
	Strides [4]int64
}

// KernelInfo is how a problem would be run.
type KernelInfo struct {
	Name         string
	ThreadBlocks int64 // of the launch, 0 on the CPU
	ClusterSize  int   // thread blocks of a cluster, 0 on the CPU
	Partitions   int   // parts over which the batch is divided; 0 on the CPU, and where there is no plan
}

func kernelInfo(info *C.flashmla_kernel_info_t) KernelInfo {
	return KernelInfo{
		Name:         C.GoString(&info.name[0]),
		ThreadBlocks: int64(info.thread_blocks),
		ClusterSize:  int(info.cluster_size),
		Partitions:   int(info.partitions),
	}
}
