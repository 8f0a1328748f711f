package tensor_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"pyhook/internal/torchtest"
	"pyhook/tensor"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// computed are the dtypes that Copy converts.
func computed(t testing.TB) []tensor.DType {
	t.Helper()
	return slices.DeleteFunc(torchtest.DTypes(t), tensor.DType.IsFloat8)
}

// copiesAsTorch asserts that Copy gives dst what torch's copy_ gives it.
func copiesAsTorch(t testing.TB, dst, src *tensor.Tensor) {
	t.Helper()
	d, s := torchtest.ToPython(t, dst), torchtest.ToPython(t, src)
	want := torchtest.Call(t, "copied", d, s).([]byte)
	d.Close()
	s.Close()
	require.NoError(t, tensor.Copy(dst, src))
	sameElements(t, dst, src, torchtest.Walk(dst), want)
}

func sameElements(t testing.TB, dst, src *tensor.Tensor, got, want []byte) {
	t.Helper()
	if slices.Equal(got, want) {
		return
	}
	size, from := dst.DType().Size(), src.DType().Size()
	in, shown := torchtest.Walk(src), 0
	for i := 0; i < len(got) && shown < 5; i += size {
		if g, w := got[i:i+size], want[i:i+size]; !slices.Equal(g, w) && !bothNaN(dst.DType(), g, w) {
			t.Errorf("%s to %s, element %d: %x became %x, torch's is %x (little-endian)",
				src.DType(), dst.DType(), i/size, in[i/size*from:i/size*from+from], g, w)
			shown++
		}
	}
}

// bothNaN reports whether a and b are NaN, of which torch's kernels keep the
// payload or not, by version and by place in the vector.
func bothNaN(dtype tensor.DType, a, b []byte) bool {
	nan := func(b []byte) bool {
		switch dtype {
		case tensor.Float64:
			return math.IsNaN(math.Float64frombits(binary.LittleEndian.Uint64(b)))
		case tensor.Float32:
			f := math.Float32frombits(binary.LittleEndian.Uint32(b))
			return f != f
		case tensor.Float16:
			return binary.LittleEndian.Uint16(b)&0x7fff > 0x7c00
		case tensor.BFloat16:
			return binary.LittleEndian.Uint16(b)&0x7fff > 0x7f80
		}
		return false
	}
	half := len(a) / 2
	switch dtype {
	case tensor.Complex64:
		dtype = tensor.Float32
	case tensor.Complex128:
		dtype = tensor.Float64
	default:
		return nan(a) && nan(b)
	}
	same := func(a, b []byte) bool { return slices.Equal(a, b) || nan(a) && nan(b) }
	return same(a[:half], b[:half]) && same(a[half:], b[half:])
}

// interesting fills src with values whose conversion to dtype C defines.
func interesting(t testing.TB, random *rand.Rand, src *tensor.Tensor, dtype tensor.DType) {
	t.Helper()
	torchtest.Randomize(t, random, src)
	real := src.DType() <= tensor.BFloat16 || src.DType().IsComplex()
	if !real || dtype <= tensor.BFloat16 || dtype.IsComplex() || dtype == tensor.Bool {
		return // any bits are defined
	}
	// Floats to integers: the whole part must fit, also in the source.
	low, high := -1.0, math.Ldexp(1, 8*dtype.Size())
	if dtype >= tensor.Int64 && dtype <= tensor.Int8 {
		high /= 2
		low = -high
	}
	high = min(high, math.Ldexp(1, 62))
	doubles := torchtest.New(t, tensor.Float64, src.Shape()...)
	values, err := tensor.Slice[float64](doubles)
	require.NoError(t, err)
	for i := range values {
		limit := math.Exp2(random.Float64() * math.Log2(high))
		values[i] = limit * 0.99 * random.Float64()
		if low < -1 && random.IntN(2) == 0 {
			values[i] = -values[i]
		}
		if dtype == tensor.Float16 || src.DType() == tensor.Float16 {
			values[i] = math.Mod(values[i], 60000)
		}
	}
	copy(values, []float64{0, math.Copysign(0, -1), 0.5, -0.5, -0.99, 1.5, 5e-324, 100.999})
	require.NoError(t, tensor.Copy(src, doubles))
}

func TestEveryConversionIsBitForBitTorchs(t *testing.T) {
	torchtest.NoLeaks(t)
	random := rand.New(rand.NewPCG(3, 4))
	for _, from := range computed(t) {
		for _, to := range computed(t) {
			t.Run(fmt.Sprintf("%s to %s", from, to), func(t *testing.T) {
				src, dst := torchtest.New(t, from, 1003), torchtest.New(t, to, 1003)
				interesting(t, random, src, to)
				copiesAsTorch(t, dst, src)
			})
		}
	}
}

func TestSpecialValuesConvertAsTorchConvertsThem(t *testing.T) {
	torchtest.NoLeaks(t)
	specials, err := tensor.FromSlice([]float64{0, math.Copysign(0, -1), math.Inf(1), math.Inf(-1), math.NaN(), 5e-324, -5e-324,
		math.MaxFloat64, math.SmallestNonzeroFloat32, math.MaxFloat32, 65504, 65519.999, 65520, 6e-8, 2.98e-8, 1.0 / 3,
		1 + 1.0/2048, 1 + 3.0/2048, 1 + 1.0/256, 1 + 3.0/256, 3.4e38, 3.3961775e38})
	require.NoError(t, err)
	defer specials.Close()
	for _, to := range computed(t) {
		if to <= tensor.BFloat16 || to.IsComplex() || to == tensor.Bool {
			copiesAsTorch(t, torchtest.New(t, to, specials.Len()), specials)
		}
	}
}

func TestAllHalvesConvertToFloat32(t *testing.T) {
	torchtest.NoLeaks(t)
	bits := make([]uint16, 1<<16)
	for i := range bits {
		bits[i] = uint16(i)
	}
	for _, dtype := range []tensor.DType{tensor.Float16, tensor.BFloat16} {
		src, err := tensor.FromSliceAs(bits, dtype)
		require.NoError(t, err)
		defer src.Close()
		copiesAsTorch(t, torchtest.New(t, tensor.Float32, 1<<16), src)
		copiesAsTorch(t, spaced(t, tensor.Float32, 1<<16), src)
		copiesAsTorch(t, torchtest.New(t, tensor.Float64, 1<<16), src)
		back := torchtest.New(t, dtype, 1<<16)
		float := torchtest.New(t, tensor.Float32, 1<<16)
		require.NoError(t, tensor.Copy(float, src))
		copiesAsTorch(t, back, float)
	}
}

// spaced is a tensor with gaps, which no vector instruction of ours writes.
func spaced(t testing.TB, dtype tensor.DType, n int64) *tensor.Tensor {
	t.Helper()
	x, err := torchtest.New(t, dtype, 2*n).View(0, []int64{n}, []int64{2})
	require.NoError(t, err)
	t.Cleanup(x.Close)
	return x
}

// sweep returns every high half of a float32 with low halves around ties, and
// strided ones between.
func sweep() []uint32 {
	lows := []uint32{0, 1, 0xfff, 0x1000, 0x1001, 0x1fff, 0x2000, 0x3000, 0x7fff, 0x8000, 0x8001, 0xd000, 0xefff, 0xf000, 0xf001, 0xffff}
	var bits []uint32
	for high := range uint32(1 << 16) {
		for _, low := range lows {
			bits = append(bits, high<<16|low)
		}
	}
	for i := uint64(0); i < 1<<32; i += 2053 {
		bits = append(bits, uint32(i))
	}
	return bits
}

func TestFloat32SweepConvertsToTheHalves(t *testing.T) {
	torchtest.NoLeaks(t)
	bits := sweep()
	src, err := tensor.FromSliceAs(bits, tensor.Float32)
	require.NoError(t, err)
	defer src.Close()
	for _, dtype := range []tensor.DType{tensor.Float16, tensor.BFloat16} {
		copiesAsTorch(t, torchtest.New(t, dtype, int64(len(bits))), src)
		copiesAsTorch(t, spaced(t, dtype, int64(len(bits))), src)
	}
}

func TestBoolsOfOtherBytesThanOneAreTrue(t *testing.T) {
	torchtest.NoLeaks(t)
	src, err := tensor.FromSliceAs([]uint8{0, 1, 2, 255}, tensor.Bool)
	require.NoError(t, err)
	defer src.Close()
	dst := torchtest.New(t, tensor.Float32, 4)
	require.NoError(t, tensor.Copy(dst, src))
	values, err := tensor.Slice[float32](dst)
	require.NoError(t, err)
	assert.Equal(t, []float32{0, 1, 1, 1}, values)
}

func TestStridedTensorsAreCopied(t *testing.T) {
	torchtest.NoLeaks(t)
	random := rand.New(rand.NewPCG(5, 6))
	dtypes := computed(t)
	for range torchtest.Often(400) {
		from, to := dtypes[random.IntN(len(dtypes))], dtypes[random.IntN(len(dtypes))]
		base, src := torchtest.RandomView(t, random, from)
		contiguousBase := torchtest.New(t, from, base.Len())
		interesting(t, random, contiguousBase, to)
		require.NoError(t, tensor.Copy(base, contiguousBase))
		// Into gaps in another order, beside which nothing may change.
		step := int64(2)
		strides := make([]int64, len(src.Shape()))
		for dim, size := range src.Shape() {
			strides[dim] = step
			step *= max(size, 1)
		}
		whole := torchtest.New(t, to, step+1)
		dst, err := whole.View(1, src.Shape(), strides)
		require.NoError(t, err)
		copiesAsTorch(t, dst, src)
		for i, b := range torchtest.Walk(whole) {
			if element := i / to.Size(); element%2 == 0 {
				require.Zero(t, b, "a gap was written")
			}
		}
		dst.Close()
		whole.Close()
		contiguousBase.Close()
		src.Close()
		base.Close()
	}
}

func TestOverlappingMemoryIsCopiedAsIfByWayOfAClone(t *testing.T) {
	torchtest.NoLeaks(t)
	fill := func() *tensor.Tensor {
		x, err := tensor.FromSlice([]int16{0, 1, 2, 3, 4, 5, 6, 7})
		require.NoError(t, err)
		return x
	}
	view := func(x *tensor.Tensor, offset int64, shape, strides []int64) *tensor.Tensor {
		v, err := x.View(offset, shape, strides)
		require.NoError(t, err)
		t.Cleanup(v.Close)
		return v
	}
	for name, test := range map[string]struct {
		dst, src func(x *tensor.Tensor) *tensor.Tensor
		want     []int16
	}{
		"forward": {
			func(x *tensor.Tensor) *tensor.Tensor { return view(x, 2, []int64{6}, nil) },
			func(x *tensor.Tensor) *tensor.Tensor { return view(x, 0, []int64{6}, nil) },
			[]int16{0, 1, 0, 1, 2, 3, 4, 5}},
		"backward": {
			func(x *tensor.Tensor) *tensor.Tensor { return view(x, 0, []int64{6}, nil) },
			func(x *tensor.Tensor) *tensor.Tensor { return view(x, 2, []int64{6}, nil) },
			[]int16{2, 3, 4, 5, 6, 7, 6, 7}},
		"reversed in place": {
			func(x *tensor.Tensor) *tensor.Tensor { return view(x, 0, []int64{8}, nil) },
			func(x *tensor.Tensor) *tensor.Tensor { return view(x, 7, []int64{8}, []int64{-1}) },
			[]int16{7, 6, 5, 4, 3, 2, 1, 0}},
		"transposed in place": {
			func(x *tensor.Tensor) *tensor.Tensor { return view(x, 0, []int64{2, 2}, nil) },
			func(x *tensor.Tensor) *tensor.Tensor { return view(x, 0, []int64{2, 2}, []int64{1, 2}) },
			[]int16{0, 2, 1, 3, 4, 5, 6, 7}},
		"every other": {
			func(x *tensor.Tensor) *tensor.Tensor { return view(x, 0, []int64{4}, nil) },
			func(x *tensor.Tensor) *tensor.Tensor { return view(x, 1, []int64{4}, []int64{2}) },
			[]int16{1, 3, 5, 7, 4, 5, 6, 7}},
		"onto itself": {
			func(x *tensor.Tensor) *tensor.Tensor { return view(x, 0, []int64{8}, nil) },
			func(x *tensor.Tensor) *tensor.Tensor { return view(x, 0, []int64{8}, nil) },
			[]int16{0, 1, 2, 3, 4, 5, 6, 7}},
	} {
		t.Run(name, func(t *testing.T) {
			x := fill()
			defer x.Close()
			require.NoError(t, tensor.Copy(test.dst(x), test.src(x)))
			values, err := tensor.Slice[int16](x)
			require.NoError(t, err)
			assert.Equal(t, test.want, values)
		})
	}
}

// From a mebibyte on the C code writes past the cache, 64 bytes at a time from an
// aligned address on: no byte beside the copy may change.
func TestLargeCopiesAreOfAllTheirBytesAndNoOther(t *testing.T) {
	torchtest.NoLeaks(t)
	const past, margin = 1 << 20, 128
	from, to := torchtest.New(t, tensor.UInt8, past+2*margin), torchtest.New(t, tensor.UInt8, past+2*margin)
	source, err := tensor.RawBytes(from)
	require.NoError(t, err)
	target, err := tensor.RawBytes(to)
	require.NoError(t, err)
	random := rand.New(rand.NewPCG(5, 6))
	for i := range source {
		source[i] = byte(random.Uint32())
	}
	part := func(x *tensor.Tensor, offset, n int64) *tensor.Tensor {
		v, err := x.View(offset, []int64{n}, nil)
		require.NoError(t, err)
		return v
	}
	for _, n := range []int64{past - 1, past, past + 1, past + 15, past + 63, past + 64} {
		for _, at := range [][2]int64{{0, 0}, {1, 0}, {0, 1}, {15, 3}, {16, 17}, {63, 64}} {
			clear(target)
			dst, src := part(to, at[0], n), part(from, at[1], n)
			require.NoError(t, tensor.Copy(dst, src))
			dst.Close()
			src.Close()
			want := make([]byte, len(target))
			copy(want[at[0]:at[0]+n], source[at[1]:])
			require.True(t, bytes.Equal(want, target), "%d bytes to %d from %d", n, at[0], at[1])
		}
	}
	for _, at := range [][2]int64{{1, 0}, {0, 1}, {64, 0}, {0, 64}} { // memory that overlaps
		want := bytes.Clone(source)
		copy(want[at[0]:at[0]+past], source[at[1]:at[1]+past])
		dst, src := part(from, at[0], past), part(from, at[1], past)
		require.NoError(t, tensor.Copy(dst, src))
		dst.Close()
		src.Close()
		require.True(t, bytes.Equal(want, source), "overlapping, to %d from %d", at[0], at[1])
	}
}

func TestADTypeIsChangedInPlace(t *testing.T) {
	torchtest.NoLeaks(t)
	doubles := torchtest.New(t, tensor.Float64, 4)
	floats, err := tensor.FromPointer(doubles.Data(), tensor.Float32, []int64{4}, nil, tensor.Device{}, nil)
	require.NoError(t, err)
	defer floats.Close()
	values, err := tensor.Slice[float64](doubles)
	require.NoError(t, err)
	copy(values, []float64{1, 2, 3, 4})
	require.NoError(t, tensor.Copy(floats, doubles))
	got, err := tensor.Slice[float32](floats)
	require.NoError(t, err)
	assert.Equal(t, []float32{1, 2, 3, 4}, got)
	require.NoError(t, tensor.Copy(doubles, floats))
	assert.Equal(t, []float64{1, 2, 3, 4}, values)
}

func TestCopiesThatHaveNoMeaningAreRefused(t *testing.T) {
	torchtest.NoLeaks(t)
	x := torchtest.New(t, tensor.Float32, 2, 3)
	torchtest.RequireError(t, tensor.Copy(x, torchtest.New(t, tensor.Float32, 6)), "shape [6] into [2 3]")
	fp8, other := torchtest.New(t, tensor.Float8E5M2, 2, 3), torchtest.New(t, tensor.Float8E4M3FN, 2, 3)
	torchtest.RequireError(t, tensor.Copy(x, fp8), "no conversion from float8_e5m2 to float32")
	torchtest.RequireError(t, tensor.Copy(fp8, x), "no conversion from float32 to float8_e5m2")
	torchtest.RequireError(t, tensor.Copy(fp8, other), "no conversion")
	require.NoError(t, tensor.Copy(fp8, torchtest.New(t, tensor.Float8E5M2, 2, 3)))
	device, err := tensor.FromPointer(x.Data(), tensor.Float32, []int64{2, 3}, nil, tensor.Device{Type: tensor.CUDA}, nil)
	require.NoError(t, err)
	defer device.Close()
	torchtest.RequireError(t, tensor.Copy(x, device), "from cuda:0 to cpu")
	torchtest.RequireError(t, tensor.Copy(device, device), "only CPU memory")
	require.NoError(t, tensor.Copy(torchtest.New(t, tensor.Float32, 0, 2), torchtest.New(t, tensor.Int8, 0, 2)))
}
