package tensor_test

import (
	"fmt"
	"math"
	"testing"
	"unsafe"

	"pyhook/internal/torchtest"
	"pyhook/tensor"
	"pyhook/tensorconv"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

type (
	grad float32
	id   int64
	mask bool
)

func sliceComesBack[T tensor.Element](t *testing.T, want tensor.DType, values ...T) {
	t.Helper()
	t.Run(fmt.Sprintf("%T", values), func(t *testing.T) {
		torchtest.NoLeaks(t)
		x, err := tensor.FromSlice(values)
		require.NoError(t, err)
		defer x.Close()
		assert.Equal(t, want, x.DType())
		assert.Equal(t, []int64{int64(len(values))}, x.Shape())
		assert.Equal(t, unsafe.Pointer(&values[0]), x.Data())
		back, err := tensor.Slice[T](x)
		require.NoError(t, err)
		assert.Equal(t, values, back)
		assert.Same(t, &values[0], &back[0])
	})
}

func TestASliceOfAnyElementTypeIsATensor(t *testing.T) {
	sliceComesBack(t, tensor.Float64, 1.5, -2)
	sliceComesBack[float32](t, tensor.Float32, 1.5, -2)
	sliceComesBack[int64](t, tensor.Int64, 1, -2)
	sliceComesBack[int32](t, tensor.Int32, 1, -2)
	sliceComesBack[int16](t, tensor.Int16, 1, -2)
	sliceComesBack[int8](t, tensor.Int8, 1, -2)
	sliceComesBack[uint8](t, tensor.UInt8, 1, 2)
	sliceComesBack[uint16](t, tensor.UInt16, 1, 2)
	sliceComesBack[uint32](t, tensor.UInt32, 1, 2)
	sliceComesBack[uint64](t, tensor.UInt64, 1, 2)
	sliceComesBack(t, tensor.Bool, true, false)
	sliceComesBack[complex64](t, tensor.Complex64, 1i, 2)
	sliceComesBack(t, tensor.Complex128, 1i, 2)
	sliceComesBack[grad](t, tensor.Float32, 1.5, -2)
	sliceComesBack[id](t, tensor.Int64, 1, -2)
	sliceComesBack[mask](t, tensor.Bool, true, false)
}

func TestASliceOfBitsIsATensorOfHalfOr8BitFloats(t *testing.T) {
	torchtest.NoLeaks(t)
	for _, dtype := range []tensor.DType{tensor.Float16, tensor.BFloat16} {
		x, err := tensor.FromSliceAs([]uint16{0, 1, 2, 3}, dtype, 2, 2)
		require.NoError(t, err)
		assert.Equal(t, []int64{2, 2}, x.Shape())
		x.Close()
	}
	for _, dtype := range []tensor.DType{tensor.Float8E4M3FN, tensor.Float8E4M3FNUZ, tensor.Float8E5M2, tensor.Float8E5M2FNUZ} {
		x, err := tensor.FromSliceAs([]uint8{0, 1}, dtype)
		require.NoError(t, err)
		x.Close()
	}
}

func TestEmptySlicesAreTensorsToo(t *testing.T) {
	torchtest.NoLeaks(t)
	backing := make([]float32, 8)
	for _, s := range [][]float32{nil, {}, backing[:0], backing[8:]} {
		x, err := tensor.FromSlice(s)
		require.NoError(t, err)
		o, err := tensorconv.ToPython(x)
		require.NoError(t, err)
		back, err := tensor.Slice[float32](x)
		require.NoError(t, err)
		assert.Empty(t, back)
		o.Close()
		x.Close()
	}
	// The shape's memory is Go's as well.
	x, err := tensor.New(tensor.Float32, make([]int64, 0, 4)...)
	require.NoError(t, err)
	defer x.Close()
	torchtest.ToPython(t, x)
}

func TestWrongDescriptionsAreRefused(t *testing.T) {
	torchtest.NoLeaks(t)
	floats := make([]float32, 6)
	p := torchtest.New(t, tensor.Float64, 4)
	odd := unsafe.Add(p.Data(), 1)
	pointer := func(data unsafe.Pointer, dtype tensor.DType, shape, strides []int64) func() (*tensor.Tensor, error) {
		return func() (*tensor.Tensor, error) {
			return tensor.FromPointer(data, dtype, shape, strides, tensor.Device{}, nil)
		}
	}
	tests := []struct {
		why  string
		make func() (*tensor.Tensor, error)
	}{
		{"invalid dtype", func() (*tensor.Tensor, error) { return tensor.New(tensor.Invalid) }},
		{"invalid dtype", func() (*tensor.Tensor, error) { return tensor.New(tensor.NumDTypes, 2) }},
		{"negative size", func() (*tensor.Tensor, error) { return tensor.New(tensor.Float32, 2, -1) }},
		{"too many elements", func() (*tensor.Tensor, error) { return tensor.New(tensor.Float32, 1<<30, 1<<30) }},
		{"too many elements", func() (*tensor.Tensor, error) { return tensor.New(tensor.Float32, math.MaxInt64, math.MaxInt64) }},
		{"too many elements", func() (*tensor.Tensor, error) { return tensor.New(tensor.Float32, 0, 1<<62, 1<<62) }},
		{"too many elements", func() (*tensor.Tensor, error) { return tensor.New(tensor.Float32, 1<<62, 0) }},
		{"has 7 elements and the slice has 6", func() (*tensor.Tensor, error) { return tensor.FromSlice(floats, 7) }},
		{"has 0 elements and the slice has 6", func() (*tensor.Tensor, error) { return tensor.FromSlice(floats, 0) }},
		{"negative size", func() (*tensor.Tensor, error) { return tensor.FromSlice(floats, -2, -3) }},
		{"float32 has 4 bytes and float16 has 2", func() (*tensor.Tensor, error) { return tensor.FromSliceAs(floats, tensor.Float16) }},
		{"invalid has 0", func() (*tensor.Tensor, error) { return tensor.FromSliceAs(floats, tensor.Invalid) }},
		{"DType(99) has 0", func() (*tensor.Tensor, error) { return tensor.FromSliceAs(floats, tensor.DType(99)) }},
		{"nil pointer", pointer(nil, tensor.Float32, []int64{2}, nil)},
		{"invalid dtype", pointer(p.Data(), tensor.NumDTypes, []int64{2}, nil)},
		{"1 strides for 2 dimensions", pointer(p.Data(), tensor.Float32, []int64{2, 2}, []int64{1})},
		{"not aligned", pointer(odd, tensor.Float32, []int64{2}, nil)},
		{"beyond any memory", pointer(p.Data(), tensor.Float32, []int64{5}, []int64{1 << 62})},
		{"beyond any memory", pointer(p.Data(), tensor.Float32, []int64{2}, []int64{math.MinInt64})},
		{"negative size", pointer(p.Data(), tensor.Float32, []int64{-2}, nil)},
	}
	for _, test := range tests {
		t.Run(test.why, func(t *testing.T) {
			_, err := test.make()
			torchtest.RequireError(t, err, test.why)
		})
	}
}

func TestMemoryThatNobodyHasIsAnError(t *testing.T) {
	if torchtest.UnderASan() {
		t.Skip("AddressSanitizer ends the process")
	}
	torchtest.NoLeaks(t)
	_, err := tensor.New(tensor.Complex128, 1<<58)
	torchtest.RequireError(t, err, "out of memory")
}

func TestMisalignedPointersOfBytesAreFine(t *testing.T) {
	torchtest.NoLeaks(t)
	p := torchtest.New(t, tensor.Float64, 4)
	x, err := tensor.FromPointer(unsafe.Add(p.Data(), 1), tensor.UInt8, []int64{2}, nil, tensor.Device{}, nil)
	require.NoError(t, err)
	x.Close()
}

func TestAViewStaysWithinItsTensor(t *testing.T) {
	torchtest.NoLeaks(t)
	x, err := tensor.FromSlice([]int32{0, 1, 2, 3, 4, 5}, 2, 3)
	require.NoError(t, err)
	defer x.Close()
	row, err := x.View(3, []int64{3}, nil)
	require.NoError(t, err)
	defer row.Close()
	corners, err := x.View(0, []int64{2, 2}, []int64{3, 2})
	require.NoError(t, err)
	defer corners.Close()
	tests := []struct {
		name    string
		of      *tensor.Tensor
		offset  int64
		shape   []int64
		strides []int64
		want    []int32
	}{
		{"all", x, 0, []int64{6}, nil, []int32{0, 1, 2, 3, 4, 5}},
		{"the last", x, 5, []int64{1}, nil, []int32{5}},
		{"a scalar", x, 4, nil, nil, []int32{4}},
		{"reversed", x, 5, []int64{6}, []int64{-1}, []int32{5, 4, 3, 2, 1, 0}},
		{"transposed", x, 0, []int64{3, 2}, []int64{1, 3}, []int32{0, 3, 1, 4, 2, 5}},
		{"both directions", x, 3, []int64{2, 3}, []int64{-3, 1}, []int32{3, 4, 5, 0, 1, 2}},
		{"repeated", x, 2, []int64{3}, []int64{0}, []int32{2, 2, 2}},
		{"of a view", row, 1, []int64{2}, nil, []int32{4, 5}},
		{"of a strided view", corners, 3, []int64{2}, []int64{2}, []int32{3, 5}},
		{"a far stride of one element", x, 0, []int64{1}, []int64{math.MinInt64}, []int32{0}},
		{"nothing at the end", x, 6, []int64{0}, nil, []int32{}},
		{"nothing anywhere", x, math.MaxInt64, []int64{0, 3}, nil, []int32{}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			torchtest.NoLeaks(t)
			view, err := test.of.View(test.offset, test.shape, test.strides)
			require.NoError(t, err)
			defer view.Close()
			dense := torchtest.New(t, tensor.Int32, view.Shape()...)
			require.NoError(t, tensor.Copy(dense, view))
			got, err := tensor.Slice[int32](dense)
			require.NoError(t, err)
			assert.Equal(t, test.want, append([]int32{}, got...))
			assert.Equal(t, torchtest.Walk(dense), torchtest.Walk(view))
		})
	}
}

func TestAViewBeyondItsTensorIsRefused(t *testing.T) {
	torchtest.NoLeaks(t)
	x, empty := torchtest.New(t, tensor.Int32, 2, 3), torchtest.New(t, tensor.Int32, 0)
	row, err := x.View(3, []int64{3}, nil)
	require.NoError(t, err)
	defer row.Close()
	corners, err := x.View(0, []int64{2, 2}, []int64{3, 2})
	require.NoError(t, err)
	defer corners.Close()
	for _, test := range []struct {
		name           string
		of             *tensor.Tensor
		offset         int64
		shape, strides []int64
	}{
		{"anything of nothing", empty, 0, []int64{1}, nil},
		{"one too many", x, 1, []int64{6}, nil},
		{"below", x, -1, []int64{1}, nil},
		{"below by stride", x, 4, []int64{6}, []int64{-1}},
		{"above by stride", x, 0, []int64{2}, []int64{6}},
		{"before a view's first", row, -1, []int64{2}, nil},
		{"after a strided view's last", corners, 0, []int64{2}, []int64{6}},
		{"an overflowing stride", x, 0, []int64{5}, []int64{1 << 62}},
		{"an overflowing sum", x, 0, []int64{2, 2, 2, 2, 2}, []int64{1 << 58, 1 << 58, 1 << 58, 1 << 58, 1 << 58}},
		{"an overflowing offset", x, math.MaxInt64, []int64{2}, nil},
		{"the least offset", x, math.MinInt64, []int64{2}, nil},
		{"strides of another rank", x, 0, []int64{2}, []int64{1, 1}},
		{"a negative size", x, 0, []int64{-2}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := test.of.View(test.offset, test.shape, test.strides)
			torchtest.RequireError(t, err, "")
		})
	}
}

func TestSliceAndRawBytesRefuseWhatHasNoSuchForm(t *testing.T) {
	torchtest.NoLeaks(t)
	x := torchtest.New(t, tensor.Float32, 4)
	_, err := tensor.Slice[float64](x)
	torchtest.RequireError(t, err, "float64 for float32")
	other, err := x.View(0, []int64{2}, []int64{2})
	require.NoError(t, err)
	defer other.Close()
	_, err = tensor.Slice[float32](other)
	torchtest.RequireError(t, err, "not contiguous: shape [2], strides [2]")
	_, err = tensor.RawBytes(other)
	torchtest.RequireError(t, err, "not contiguous CPU memory")
	device, err := tensor.FromPointer(x.Data(), tensor.Float32, []int64{4}, nil, tensor.Device{Type: tensor.CUDA, ID: 1}, nil)
	require.NoError(t, err)
	defer device.Close()
	_, err = tensor.Slice[float32](device)
	torchtest.RequireError(t, err, "the memory is on cuda:1")
	_, err = tensor.RawBytes(device)
	torchtest.RequireError(t, err, "not contiguous CPU memory")
	bits, err := tensor.Slice[uint32](x) // the same size: the bits
	require.NoError(t, err)
	assert.Len(t, bits, 4)
	raw, err := tensor.RawBytes(x)
	require.NoError(t, err)
	assert.Len(t, raw, 16)
}

func TestContiguityIgnoresStridesThatNobodySteps(t *testing.T) {
	torchtest.NoLeaks(t)
	x := torchtest.New(t, tensor.Float32, 6)
	for _, test := range []struct {
		shape, strides []int64
		want           bool
	}{
		{[]int64{1, 6}, []int64{99, 1}, true},
		{[]int64{0, 3}, []int64{1, 5}, true},
		{[]int64{3, 2}, []int64{2, 1}, true},
		{[]int64{2, 3}, []int64{1, 2}, false},
		{[]int64{2}, []int64{0}, false},
		{nil, nil, true},
	} {
		view, err := x.View(0, test.shape, test.strides)
		require.NoError(t, err)
		assert.Equal(t, test.want, view.IsContiguous(), test)
		view.Close()
	}
}

func TestNewMemoryIsZeroAndAligned(t *testing.T) {
	torchtest.NoLeaks(t)
	for _, dtype := range tensor.DTypes() {
		x := torchtest.New(t, dtype, 3, 5)
		assert.Zero(t, uintptr(x.Data())%64)
		assert.Equal(t, make([]byte, 15*dtype.Size()), torchtest.Walk(x))
		assert.Equal(t, int64(15*dtype.Size()), x.Bytes())
	}
	assert.Equal(t, int64(1), torchtest.New(t, tensor.Float32).Len())
}

func TestDTypesAreNamedAsTorchNamesThem(t *testing.T) {
	for _, dtype := range tensor.DTypes() {
		for _, name := range []string{dtype.String(), "torch." + dtype.String()} {
			back, err := tensor.ParseDType(name)
			require.NoError(t, err)
			assert.Equal(t, dtype, back)
		}
	}
	half, err := tensor.ParseDType("torch.half")
	require.NoError(t, err)
	assert.Equal(t, tensor.Float16, half)
	for _, name := range []string{"", "invalid", "torch.", "float128"} {
		_, err := tensor.ParseDType(name)
		torchtest.RequireError(t, err, "unknown dtype")
	}
	assert.Equal(t, "DType(99)", tensor.DType(99).String())
	assert.Zero(t, tensor.DType(99).Size())
}

func TestTensorsAndDevicesSayWhatTheyAre(t *testing.T) {
	torchtest.NoLeaks(t)
	assert.Equal(t, "bfloat16[2 3] on cpu", torchtest.New(t, tensor.BFloat16, 2, 3).String())
	assert.Equal(t, "cpu", tensor.Device{Type: tensor.CUDAHost}.String())
	assert.Equal(t, "cuda:3", tensor.Device{Type: tensor.ROCM, ID: 3}.String())
	assert.Equal(t, "device(8):1", tensor.Device{Type: 8, ID: 1}.String())
}

func TestTensor_WithCapacity(t *testing.T) {
	torchtest.NoLeaks(t)
	for n, want := range map[int64]int64{0: 0, 1: 1, 2: 4, 9: 9, 10: 16, 1000: 1024} {
		whole, err := torchtest.New(t, tensor.Float32, n).WithCapacity()
		require.NoError(t, err)
		assert.Equal(t, []int64{want}, whole.Shape())
		values, err := tensor.Slice[float32](whole)
		require.NoError(t, err)
		for i := range values { // AddressSanitizer sees whether it is there
			values[i]++
		}
		whole.Close()
	}
	matrix, err := torchtest.New(t, tensor.Float32, 2, 5).WithCapacity()
	require.NoError(t, err)
	defer matrix.Close()
	assert.Equal(t, []int64{2, 5}, matrix.Shape())
}
