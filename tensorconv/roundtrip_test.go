package tensorconv

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// randomize fills the memory of a contiguous tensor with random bits.
func randomize(t testing.TB, random *rand.Rand, x *Tensor) {
	t.Helper()
	b, err := RawBytes(x)
	require.NoError(t, err)
	for i := range b {
		b[i] = byte(random.Uint32())
		if x.dtype == Bool {
			b[i] &= 1
		}
	}
}

// randomView makes memory of random content and a view on it: any rank to 5,
// sizes 0 to 4, dimensions in any order in memory, with gaps, some expanded.
func randomView(t testing.TB, random *rand.Rand, dtype DType) (base, view *Tensor) {
	t.Helper()
	shape := make([]int64, random.IntN(6))
	strides := make([]int64, len(shape))
	for i := range shape {
		shape[i] = 1 + random.Int64N(4)
		if random.IntN(20) == 0 {
			shape[i] = 0
		}
	}
	step := int64(1)
	for _, dim := range random.Perm(len(shape)) {
		if random.IntN(8) == 0 {
			continue // expanded
		}
		strides[dim] = step * (1 + random.Int64N(2))
		step = strides[dim] * max(shape[dim], 1)
	}
	offset := random.Int64N(6)
	_, high, ok := span(shape, strides)
	require.True(t, ok)
	base, err := New(dtype, offset+high+1+random.Int64N(3))
	require.NoError(t, err)
	randomize(t, random, base)
	view, err = base.View(offset, shape, strides)
	require.NoError(t, err)
	return base, view
}

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

func TestAnyTensorGoesToTorchAndComesBackAsItWas(t *testing.T) {
	noLeaks(t)
	random := rand.New(rand.NewPCG(1, 2))
	cases := 60
	if testing.Short() {
		cases = 10
	}
	for _, dtype := range here(t) {
		for range cases {
			roundTrip(t, random, dtype)
			require.False(t, t.Failed(), "dtype %s", dtype)
		}
	}
}

func roundTrip(t *testing.T, random *rand.Rand, dtype DType) {
	base, in := randomView(t, random, dtype)
	defer base.Close()
	defer in.Close()
	o, err := in.Python()
	require.NoError(t, err)
	defer o.Close()

	seen := call(t, "describe", o).([]any)
	address := uintptr(in.Data())
	if in.Len() == 0 {
		address = 0 // torch's answer for no elements
	}
	assert.EqualValues(t, address, seen[0])
	assert.Equal(t, in.Shape(), ints(seen[1]))
	assert.Equal(t, steps(in.shape, in.strides), steps(in.shape, ints(seen[2])))
	assert.Equal(t, "torch."+dtype.String(), seen[3])
	assert.Equal(t, walk(in), seen[4])

	out, err := FromPython(o)
	require.NoError(t, err)
	defer out.Close()
	if in.Len() > 0 {
		assert.Equal(t, in.Data(), out.Data())
	}
	assert.Equal(t, dtype, out.DType())
	assert.Equal(t, in.Device(), out.Device())
	assert.Equal(t, in.Shape(), out.Shape())
	assert.Equal(t, steps(in.shape, in.strides), steps(in.shape, out.Strides()))
	assert.Equal(t, walk(in), walk(out))

	// Python sees what Go writes, and the reverse.
	randomize(t, random, base)
	assert.Equal(t, walk(out), call(t, "raw", o))
	if !expanded(in) { // torch does not write to those
		call(t, "fill", o)
		assert.Equal(t, call(t, "raw", o), walk(in))
		ones := newClosed(t, dtype, in.shape...)
		oo, err := ones.Python()
		require.NoError(t, err)
		defer oo.Close()
		call(t, "fill", oo)
		assert.Equal(t, walk(ones), walk(in))
		ones.Close()
	}
}

func expanded(x *Tensor) bool {
	for i, size := range x.shape {
		if size > 1 && x.strides[i] == 0 {
			return true
		}
	}
	return false
}

func TestATransposedTensorHasTorchsOwnElements(t *testing.T) {
	noLeaks(t)
	x, err := FromSlice([]float32{1, 2, 3, 4, 5, 6}, 2, 3)
	require.NoError(t, err)
	defer x.Close()
	transposed, err := x.View(0, []int64{3, 2}, []int64{1, 3})
	require.NoError(t, err)
	defer transposed.Close()
	list, err := toPython(t, transposed).CallValue("tolist")
	require.NoError(t, err)
	assert.Equal(t, []any{[]any{1., 4.}, []any{2., 5.}, []any{3., 6.}}, list)
}

// TestComplexNumbersThatTorchWouldCrashOnAreRefused: its loops over complex128 load
// 16 bytes at a time, aligned.
func TestComplexNumbersThatTorchWouldCrashOnAreRefused(t *testing.T) {
	noLeaks(t)
	memory, err := New(Float64, 5)
	require.NoError(t, err)
	defer memory.Close()
	for offset, right := range map[int]bool{0: true, 8: false} {
		x, err := FromPointer(unsafe.Add(memory.Data(), offset), Complex128, []int64{2}, nil, Device{}, nil)
		require.NoError(t, err)
		o, err := x.Python()
		if right {
			require.NoError(t, err)
			o.Close()
		} else {
			requireError(t, err, "complex128 at multiples of 16 bytes")
		}
		x.Close()
	}
}

func TestNegativeStridesAndUnknownDTypesAreRefusedByPython(t *testing.T) {
	noLeaks(t)
	x := newClosed(t, Float32, 4)
	reversed, err := x.View(3, []int64{4}, []int64{-1})
	require.NoError(t, err)
	defer reversed.Close()
	_, err = reversed.Python()
	requireError(t, err, "no negative strides: [-1]")
	s, err := torch()
	require.NoError(t, err)
	for _, d := range DTypes() {
		if s.dtypes[d] == nil {
			y := newClosed(t, d, 2)
			_, err := y.Python()
			requireError(t, err, "this torch has no dtype "+d.String())
		}
	}
}

func TestMemoryOnADeviceThatTorchDoesNotHaveLeavesNothingBehind(t *testing.T) {
	noLeaks(t)
	released := make(chan struct{}, 2)
	p := newClosed(t, Float32, 4)
	for _, device := range []Device{{Type: 77}, {Type: CUDA, ID: 60}} {
		x, err := FromPointer(p.Data(), Float32, []int64{4}, nil, device, func() { released <- struct{}{} })
		require.NoError(t, err)
		_, err = x.Python()
		require.Error(t, err)
		x.Close()
		select {
		case <-released:
		case <-time.After(10 * time.Second):
			t.Fatalf("torch keeps what it refused: %v", err)
		}
	}
}

func TestCapsulesAreConsumedOnceOrNotAtAll(t *testing.T) {
	noLeaks(t)
	x := newClosed(t, Int32, 3)
	for _, versioned := range []bool{false, true} {
		unused, err := x.Capsule(versioned)
		require.NoError(t, err)
		unused.Close()

		capsule, err := x.Capsule(versioned)
		require.NoError(t, err)
		defer capsule.Close()
		y := fromPython(t, capsule)
		assert.Equal(t, x.Data(), y.Data())
		_, err = FromPython(capsule)
		requireError(t, err, "nor an unused DLPack capsule")
	}
}

func TestTorchAndNumpyConsumeOurCapsules(t *testing.T) {
	noLeaks(t)
	x, err := FromSlice([]int32{1, 2, 3})
	require.NoError(t, err)
	defer x.Close()
	for _, versioned := range []bool{false, true} {
		capsule, err := x.Capsule(versioned)
		require.NoError(t, err)
		o, err := helper.Call("evaluate", "lambda c: numpy.from_dlpack(Array(c)).tolist()")
		require.NoError(t, err)
		list, err := o.Invoke([]any{capsule}, nil)
		o.Close()
		if versioned && err != nil {
			t.Logf("this numpy takes no versioned capsules: %v", err)
		} else {
			require.NoError(t, err)
			v, err := list.Value()
			require.NoError(t, err)
			assert.Equal(t, []any{int64(1), int64(2), int64(3)}, v)
			list.Close()
		}
		capsule.Close()

		capsule, err = x.Capsule(versioned)
		require.NoError(t, err)
		s, err := torch()
		require.NoError(t, err)
		o, err = s.fromDLPack.Invoke([]any{capsule}, nil)
		capsule.Close()
		if versioned && err != nil {
			t.Logf("this torch takes no versioned capsules: %v", err)
			continue
		}
		require.NoError(t, err)
		assert.Equal(t, uintptr(x.Data()), uintptr(call(t, "describe", o).([]any)[0].(int64)))
		o.Close()
	}
}

func TestAddressesOfEmptyTensorsAreNil(t *testing.T) {
	noLeaks(t)
	x := newClosed(t, Float32, 8)
	end, err := x.View(8, []int64{0}, nil)
	require.NoError(t, err)
	defer end.Close()
	o := toPython(t, end)
	assert.Equal(t, unsafe.Pointer(nil), fromPython(t, o).Data())
}
