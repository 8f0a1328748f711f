package tensorconv_test

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
	"unsafe"

	"pyhook/internal/torchtest"
	"pyhook/tensor"
	"pyhook/tensorconv"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// steps are the strides that matter: torch gives 1 for the others.
func steps(shape, strides []int64) []int64 {
	out := slices.Clone(strides)
	for i, size := range shape {
		if size < 2 || slices.Contains(shape, 0) {
			out[i] = 1
		}
	}
	return out
}

func ints(list any) []int64 {
	out := []int64{}
	for _, v := range list.([]any) {
		out = append(out, v.(int64))
	}
	return out
}

func TestToPython_RoundTrip(t *testing.T) {
	t.Run("any tensor goes to torch and comes back as it was", func(t *testing.T) {
		torchtest.NoLeaks(t)
		random := rand.New(rand.NewPCG(1, 2))
		cases := 60
		if testing.Short() {
			cases = 10
		}
		for _, dtype := range torchtest.DTypes(t) {
			for range cases {
				roundTrip(t, random, dtype)
				require.False(t, t.Failed(), "dtype %s", dtype)
			}
		}
	})
}

func roundTrip(t *testing.T, random *rand.Rand, dtype tensor.DType) {
	base, in := torchtest.RandomView(t, random, dtype)
	defer base.Close()
	defer in.Close()
	o, err := tensorconv.ToPython(in)
	require.NoError(t, err)
	defer o.Close()

	seen := torchtest.Call(t, "describe", o).([]any)
	address := uintptr(in.Data())
	if in.Len() == 0 {
		address = 0 // torch's answer for no elements
	}
	assert.EqualValues(t, address, seen[0])
	assert.Equal(t, in.Shape(), ints(seen[1]))
	assert.Equal(t, steps(in.Shape(), in.Strides()), steps(in.Shape(), ints(seen[2])))
	assert.Equal(t, "torch."+dtype.String(), seen[3])
	assert.Equal(t, torchtest.Walk(in), seen[4])

	out, err := tensorconv.FromPython(o)
	require.NoError(t, err)
	defer out.Close()
	if in.Len() > 0 {
		assert.Equal(t, in.Data(), out.Data())
	}
	assert.Equal(t, dtype, out.DType())
	assert.Equal(t, in.Device(), out.Device())
	assert.Equal(t, in.Shape(), out.Shape())
	assert.Equal(t, steps(in.Shape(), in.Strides()), steps(in.Shape(), out.Strides()))
	assert.Equal(t, torchtest.Walk(in), torchtest.Walk(out))

	// Python sees what Go writes, and the reverse.
	torchtest.Randomize(t, random, base)
	assert.Equal(t, torchtest.Walk(out), torchtest.Call(t, "raw", o))
	if !expanded(in) { // torch does not write to those
		torchtest.Call(t, "fill", o)
		assert.Equal(t, torchtest.Call(t, "raw", o), torchtest.Walk(in))
		ones := torchtest.New(t, dtype, in.Shape()...)
		oo, err := tensorconv.ToPython(ones)
		require.NoError(t, err)
		defer oo.Close()
		torchtest.Call(t, "fill", oo)
		assert.Equal(t, torchtest.Walk(ones), torchtest.Walk(in))
		ones.Close()
	}
}

func expanded(x *tensor.Tensor) bool {
	for i, size := range x.Shape() {
		if size > 1 && x.Strides()[i] == 0 {
			return true
		}
	}
	return false
}

func TestToPython(t *testing.T) {
	t.Run("a transposed tensor has torch's own elements", func(t *testing.T) {
		torchtest.NoLeaks(t)
		x, err := tensor.FromSlice([]float32{1, 2, 3, 4, 5, 6}, 2, 3)
		require.NoError(t, err)
		defer x.Close()
		transposed, err := x.View(0, []int64{3, 2}, []int64{1, 3})
		require.NoError(t, err)
		defer transposed.Close()
		list, err := torchtest.ToPython(t, transposed).CallValue("tolist")
		require.NoError(t, err)
		assert.Equal(t, []any{[]any{1., 4.}, []any{2., 5.}, []any{3., 6.}}, list)
	})
	// TestComplexNumbersThatTorchWouldCrashOnAreRefused: its loops over complex128 load
	// 16 bytes at a time, aligned.
	t.Run("complex numbers that torch would crash on are refused", func(t *testing.T) {
		torchtest.NoLeaks(t)
		memory, err := tensor.New(tensor.Float64, 5)
		require.NoError(t, err)
		defer memory.Close()
		for offset, right := range map[int]bool{0: true, 8: false} {
			x, err := tensor.FromPointer(unsafe.Add(memory.Data(), offset), tensor.Complex128, []int64{2}, nil, tensor.Device{}, nil)
			require.NoError(t, err)
			o, err := tensorconv.ToPython(x)
			if right {
				require.NoError(t, err)
				o.Close()
			} else {
				torchtest.RequireError(t, err, "complex128 at multiples of 16 bytes")
			}
			x.Close()
		}
	})
	t.Run("Python refuses negative strides and unknown dtypes", func(t *testing.T) {
		torchtest.NoLeaks(t)
		x := torchtest.New(t, tensor.Float32, 4)
		reversed, err := x.View(3, []int64{4}, []int64{-1})
		require.NoError(t, err)
		defer reversed.Close()
		_, err = tensorconv.ToPython(reversed)
		torchtest.RequireError(t, err, "no negative strides: [-1]")
		known := torchtest.DTypes(t)
		for _, d := range tensor.DTypes() {
			if !slices.Contains(known, d) {
				y := torchtest.New(t, d, 2)
				_, err := tensorconv.ToPython(y)
				torchtest.RequireError(t, err, "this torch has no dtype "+d.String())
			}
		}
	})
	t.Run("memory on a device that torch does not have leaves nothing behind", func(t *testing.T) {
		torchtest.NoLeaks(t)
		released := make(chan struct{}, 2)
		p := torchtest.New(t, tensor.Float32, 4)
		for _, device := range []tensor.Device{{Type: 77}, {Type: tensor.CUDA, ID: 60}} {
			x, err := tensor.FromPointer(p.Data(), tensor.Float32, []int64{4}, nil, device, func() { released <- struct{}{} })
			require.NoError(t, err)
			_, err = tensorconv.ToPython(x)
			require.Error(t, err)
			x.Close()
			select {
			case <-released:
			case <-time.After(10 * time.Second):
				t.Fatalf("torch keeps what it refused: %v", err)
			}
		}
	})
	t.Run("addresses of empty tensors are nil", func(t *testing.T) {
		torchtest.NoLeaks(t)
		x := torchtest.New(t, tensor.Float32, 8)
		end, err := x.View(8, []int64{0}, nil)
		require.NoError(t, err)
		defer end.Close()
		o := torchtest.ToPython(t, end)
		assert.Equal(t, unsafe.Pointer(nil), torchtest.FromPython(t, o).Data())
	})
}

func TestCapsule(t *testing.T) {
	t.Run("capsules are consumed once or not at all", func(t *testing.T) {
		torchtest.NoLeaks(t)
		x := torchtest.New(t, tensor.Int32, 3)
		unused, err := tensorconv.Capsule(x)
		require.NoError(t, err)
		unused.Close()

		capsule, err := tensorconv.Capsule(x)
		require.NoError(t, err)
		defer capsule.Close()
		y := torchtest.FromPython(t, capsule)
		assert.Equal(t, x.Data(), y.Data())
		_, err = tensorconv.FromPython(capsule)
		torchtest.RequireError(t, err, "nor an unused DLPack capsule")
	})
	t.Run("torch and numpy consume them", func(t *testing.T) {
		torchtest.NoLeaks(t)
		x, err := tensor.FromSlice([]int32{1, 2, 3})
		require.NoError(t, err)
		defer x.Close()
		for consumer, want := range map[string]any{
			"lambda c: numpy.from_dlpack(Array(c)).tolist()":         []any{int64(1), int64(2), int64(3)},
			"lambda c: torch.utils.dlpack.from_dlpack(c).data_ptr()": int64(uintptr(x.Data())),
		} {
			capsule, err := tensorconv.Capsule(x)
			require.NoError(t, err)
			o, err := torchtest.Eval(t, consumer).Invoke([]any{capsule}, nil)
			capsule.Close()
			require.NoError(t, err)
			got, err := o.Value()
			o.Close()
			require.NoError(t, err)
			assert.Equal(t, want, got)
		}
	})
}
