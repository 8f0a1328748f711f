package tensor_test

import (
	"errors"
	"testing"

	"pyhook/internal/torchtest"
	"pyhook/tensor"

	"github.com/stretchr/testify/require"
)

// FuzzView: whatever View accepts lies in the tensor's memory.
func FuzzView(f *testing.F) {
	f.Add(int64(0), uint8(2), int64(2), int64(3), int64(3), int64(1))
	f.Add(int64(5), uint8(2), int64(2), int64(3), int64(-3), int64(-1))
	f.Add(int64(0), uint8(2), int64(3), int64(3), int64(1<<62), int64(1<<62))
	f.Add(int64(-1<<63), uint8(2), int64(1<<62), int64(0), int64(-1<<63), int64(1))
	f.Add(int64(1<<63-1), uint8(1), int64(2), int64(0), int64(-1<<62), int64(0))
	f.Fuzz(func(t *testing.T, offset int64, rank uint8, a, b, strideA, strideB int64) {
		rank %= 3
		x, err := tensor.FromSlice([]uint8{0, 1, 2, 3, 4, 5}, 2, 3)
		require.NoError(t, err)
		defer x.Close()
		shape, strides := []int64{a, b}[:rank], []int64{strideA, strideB}[:rank]
		view, err := x.View(offset, shape, strides)
		if err != nil {
			torchtest.RequireError(t, err, "")
			return
		}
		defer view.Close()
		if view.Len() > 1<<16 { // many zero strides
			return
		}
		// The memory holds each element's own index.
		elements := torchtest.Walk(view)
		require.Len(t, elements, int(view.Len()))
		for _, e := range elements {
			require.Less(t, e, uint8(6))
		}
	})
}

// FuzzCopy: a strided copy between any dtypes is the element-wise one, and
// writes nothing else.
func FuzzCopy(f *testing.F) {
	f.Add(uint8(1), uint8(2), int64(0), int64(3), int64(2), int64(1), int64(4), []byte("0123456789abcdef"))
	f.Add(uint8(3), uint8(3), int64(6), int64(-3), int64(-1), int64(4), int64(1), []byte("overlaps"))
	f.Add(uint8(15), uint8(13), int64(0), int64(0), int64(0), int64(2), int64(6), []byte{0xff, 0x7f})
	f.Fuzz(func(t *testing.T, from, to uint8, offset, srcA, srcB, dstA, dstB int64, content []byte) {
		src, dst := torchtest.New(t, tensor.DType(from%uint8(tensor.NumDTypes-1))+1, 16), torchtest.New(t, tensor.DType(to%uint8(tensor.NumDTypes-1))+1, 16)
		raw, err := tensor.RawBytes(src)
		require.NoError(t, err)
		copy(raw, content)
		s, err := src.View(offset, []int64{3, 2}, []int64{srcA, srcB})
		if err != nil {
			return
		}
		defer s.Close()
		d, err := dst.View(0, []int64{3, 2}, []int64{dstA, dstB})
		if err != nil {
			return
		}
		defer d.Close()
		if err := tensor.Copy(d, s); err != nil {
			var ours *tensor.Error
			require.True(t, errors.As(err, &ours))
			require.True(t, src.DType().IsFloat8() || dst.DType().IsFloat8())
			return
		}
		// The same, an element at a time.
		want := torchtest.New(t, dst.DType(), 16)
		for i := range int64(3) {
			for j := range int64(2) {
				one, err := src.View(offset+i*srcA+j*srcB, nil, nil)
				require.NoError(t, err)
				at, err := want.View(i*dstA+j*dstB, nil, nil)
				require.NoError(t, err)
				require.NoError(t, tensor.Copy(at, one))
				one.Close()
				at.Close()
			}
		}
		got, expected := torchtest.Walk(dst), torchtest.Walk(want)
		sameElements(t, dst, dst, got, expected)
	})
}
