package tensorconv

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// computed are the dtypes that Copy converts.
func computed(t testing.TB) []DType {
	t.Helper()
	return slices.DeleteFunc(here(t), DType.IsFloat8)
}

// copiesAsTorch asserts that Copy gives dst what torch's copy_ gives it.
func copiesAsTorch(t testing.TB, dst, src *Tensor) {
	t.Helper()
	d, s := toPython(t, dst), toPython(t, src)
	want := call(t, "copied", d, s).([]byte)
	d.Close()
	s.Close()
	require.NoError(t, Copy(dst, src))
	sameElements(t, dst, src, walk(dst), want)
}

func sameElements(t testing.TB, dst, src *Tensor, got, want []byte) {
	t.Helper()
	if slices.Equal(got, want) {
		return
	}
	size, from := dst.dtype.Size(), src.dtype.Size()
	in, shown := walk(src), 0
	for i := 0; i < len(got) && shown < 5; i += size {
		if g, w := got[i:i+size], want[i:i+size]; !slices.Equal(g, w) && !bothNaN(dst.dtype, g, w) {
			t.Errorf("%s to %s, element %d: %x became %x, torch's is %x (little-endian)",
				src.dtype, dst.dtype, i/size, in[i/size*from:i/size*from+from], g, w)
			shown++
		}
	}
}

// bothNaN reports whether a and b are NaN, of which torch's kernels keep the
// payload or not, by version and by place in the vector.
func bothNaN(dtype DType, a, b []byte) bool {
	nan := func(b []byte) bool {
		switch dtype {
		case Float64:
			return math.IsNaN(math.Float64frombits(binary.LittleEndian.Uint64(b)))
		case Float32:
			f := math.Float32frombits(binary.LittleEndian.Uint32(b))
			return f != f
		case Float16:
			return binary.LittleEndian.Uint16(b)&0x7fff > 0x7c00
		case BFloat16:
			return binary.LittleEndian.Uint16(b)&0x7fff > 0x7f80
		}
		return false
	}
	half := len(a) / 2
	switch dtype {
	case Complex64:
		dtype = Float32
	case Complex128:
		dtype = Float64
	default:
		return nan(a) && nan(b)
	}
	same := func(a, b []byte) bool { return slices.Equal(a, b) || nan(a) && nan(b) }
	return same(a[:half], b[:half]) && same(a[half:], b[half:])
}

// interesting fills src with values whose conversion to dtype C defines.
func interesting(t testing.TB, random *rand.Rand, src *Tensor, dtype DType) {
	t.Helper()
	randomize(t, random, src)
	real := src.dtype <= BFloat16 || src.dtype.IsComplex()
	if !real || dtype <= BFloat16 || dtype.IsComplex() || dtype == Bool {
		return // any bits are defined
	}
	// Floats to integers: the whole part must fit, also in the source.
	low, high := -1.0, math.Ldexp(1, 8*dtype.Size())
	if dtype >= Int64 && dtype <= Int8 {
		high /= 2
		low = -high
	}
	high = min(high, math.Ldexp(1, 62))
	doubles := newClosed(t, Float64, src.shape...)
	values, err := Slice[float64](doubles)
	require.NoError(t, err)
	for i := range values {
		limit := math.Exp2(random.Float64() * math.Log2(high))
		values[i] = limit * 0.99 * random.Float64()
		if low < -1 && random.IntN(2) == 0 {
			values[i] = -values[i]
		}
		if dtype == Float16 || src.dtype == Float16 {
			values[i] = math.Mod(values[i], 60000)
		}
	}
	copy(values, []float64{0, math.Copysign(0, -1), 0.5, -0.5, -0.99, 1.5, 5e-324, 100.999})
	require.NoError(t, Copy(src, doubles))
}

func TestEveryConversionIsBitForBitTorchs(t *testing.T) {
	noLeaks(t)
	random := rand.New(rand.NewPCG(3, 4))
	for _, from := range computed(t) {
		for _, to := range computed(t) {
			t.Run(fmt.Sprintf("%s to %s", from, to), func(t *testing.T) {
				src, dst := newClosed(t, from, 1003), newClosed(t, to, 1003)
				interesting(t, random, src, to)
				copiesAsTorch(t, dst, src)
			})
		}
	}
}

func TestSpecialValuesConvertAsTorchConvertsThem(t *testing.T) {
	noLeaks(t)
	specials, err := FromSlice([]float64{0, math.Copysign(0, -1), math.Inf(1), math.Inf(-1), math.NaN(), 5e-324, -5e-324,
		math.MaxFloat64, math.SmallestNonzeroFloat32, math.MaxFloat32, 65504, 65519.999, 65520, 6e-8, 2.98e-8, 1.0 / 3,
		1 + 1.0/2048, 1 + 3.0/2048, 1 + 1.0/256, 1 + 3.0/256, 3.4e38, 3.3961775e38})
	require.NoError(t, err)
	defer specials.Close()
	for _, to := range computed(t) {
		if to <= BFloat16 || to.IsComplex() || to == Bool {
			copiesAsTorch(t, newClosed(t, to, specials.Len()), specials)
		}
	}
}

func TestAllHalvesConvertToFloat32(t *testing.T) {
	noLeaks(t)
	bits := make([]uint16, 1<<16)
	for i := range bits {
		bits[i] = uint16(i)
	}
	for _, dtype := range []DType{Float16, BFloat16} {
		src, err := FromSliceAs(bits, dtype)
		require.NoError(t, err)
		defer src.Close()
		copiesAsTorch(t, newClosed(t, Float32, 1<<16), src)
		copiesAsTorch(t, spaced(t, Float32, 1<<16), src)
		copiesAsTorch(t, newClosed(t, Float64, 1<<16), src)
		back := newClosed(t, dtype, 1<<16)
		float := newClosed(t, Float32, 1<<16)
		require.NoError(t, Copy(float, src))
		copiesAsTorch(t, back, float)
	}
}

// spaced is a tensor with gaps, which no vector instruction of ours writes.
func spaced(t testing.TB, dtype DType, n int64) *Tensor {
	t.Helper()
	x, err := newClosed(t, dtype, 2*n).View(0, []int64{n}, []int64{2})
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
	noLeaks(t)
	bits := sweep()
	src, err := FromSliceAs(bits, Float32)
	require.NoError(t, err)
	defer src.Close()
	for _, dtype := range []DType{Float16, BFloat16} {
		copiesAsTorch(t, newClosed(t, dtype, int64(len(bits))), src)
		copiesAsTorch(t, spaced(t, dtype, int64(len(bits))), src)
	}
}

func TestBoolsOfOtherBytesThanOneAreTrue(t *testing.T) {
	noLeaks(t)
	src, err := FromSliceAs([]uint8{0, 1, 2, 255}, Bool)
	require.NoError(t, err)
	defer src.Close()
	dst := newClosed(t, Float32, 4)
	require.NoError(t, Copy(dst, src))
	values, err := Slice[float32](dst)
	require.NoError(t, err)
	assert.Equal(t, []float32{0, 1, 1, 1}, values)
}

func TestStridedTensorsAreCopied(t *testing.T) {
	noLeaks(t)
	random := rand.New(rand.NewPCG(5, 6))
	dtypes := computed(t)
	for range often(400) {
		from, to := dtypes[random.IntN(len(dtypes))], dtypes[random.IntN(len(dtypes))]
		base, src := randomView(t, random, from)
		contiguousBase := newClosed(t, from, base.Len())
		interesting(t, random, contiguousBase, to)
		require.NoError(t, Copy(base, contiguousBase))
		// Into gaps in another order, beside which nothing may change.
		step := int64(2)
		strides := make([]int64, len(src.shape))
		for dim, size := range src.shape {
			strides[dim] = step
			step *= max(size, 1)
		}
		whole := newClosed(t, to, step+1)
		dst, err := whole.View(1, src.shape, strides)
		require.NoError(t, err)
		copiesAsTorch(t, dst, src)
		for i, b := range walk(whole) {
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
	noLeaks(t)
	fill := func() *Tensor {
		x, err := FromSlice([]int16{0, 1, 2, 3, 4, 5, 6, 7})
		require.NoError(t, err)
		return x
	}
	view := func(x *Tensor, offset int64, shape, strides []int64) *Tensor {
		v, err := x.View(offset, shape, strides)
		require.NoError(t, err)
		t.Cleanup(v.Close)
		return v
	}
	for name, test := range map[string]struct {
		dst, src func(x *Tensor) *Tensor
		want     []int16
	}{
		"forward": {
			func(x *Tensor) *Tensor { return view(x, 2, []int64{6}, nil) },
			func(x *Tensor) *Tensor { return view(x, 0, []int64{6}, nil) },
			[]int16{0, 1, 0, 1, 2, 3, 4, 5}},
		"backward": {
			func(x *Tensor) *Tensor { return view(x, 0, []int64{6}, nil) },
			func(x *Tensor) *Tensor { return view(x, 2, []int64{6}, nil) },
			[]int16{2, 3, 4, 5, 6, 7, 6, 7}},
		"reversed in place": {
			func(x *Tensor) *Tensor { return view(x, 0, []int64{8}, nil) },
			func(x *Tensor) *Tensor { return view(x, 7, []int64{8}, []int64{-1}) },
			[]int16{7, 6, 5, 4, 3, 2, 1, 0}},
		"transposed in place": {
			func(x *Tensor) *Tensor { return view(x, 0, []int64{2, 2}, nil) },
			func(x *Tensor) *Tensor { return view(x, 0, []int64{2, 2}, []int64{1, 2}) },
			[]int16{0, 2, 1, 3, 4, 5, 6, 7}},
		"every other": {
			func(x *Tensor) *Tensor { return view(x, 0, []int64{4}, nil) },
			func(x *Tensor) *Tensor { return view(x, 1, []int64{4}, []int64{2}) },
			[]int16{1, 3, 5, 7, 4, 5, 6, 7}},
		"onto itself": {
			func(x *Tensor) *Tensor { return view(x, 0, []int64{8}, nil) },
			func(x *Tensor) *Tensor { return view(x, 0, []int64{8}, nil) },
			[]int16{0, 1, 2, 3, 4, 5, 6, 7}},
	} {
		t.Run(name, func(t *testing.T) {
			x := fill()
			defer x.Close()
			require.NoError(t, Copy(test.dst(x), test.src(x)))
			values, err := Slice[int16](x)
			require.NoError(t, err)
			assert.Equal(t, test.want, values)
		})
	}
}

// From a mebibyte on the C code writes past the cache, 64 bytes at a time from an
// aligned address on: no byte beside the copy may change.
func TestLargeCopiesAreOfAllTheirBytesAndNoOther(t *testing.T) {
	noLeaks(t)
	const past, margin = 1 << 20, 128
	from, to := newClosed(t, UInt8, past+2*margin), newClosed(t, UInt8, past+2*margin)
	source, err := RawBytes(from)
	require.NoError(t, err)
	target, err := RawBytes(to)
	require.NoError(t, err)
	random := rand.New(rand.NewPCG(5, 6))
	for i := range source {
		source[i] = byte(random.Uint32())
	}
	part := func(x *Tensor, offset, n int64) *Tensor {
		v, err := x.View(offset, []int64{n}, nil)
		require.NoError(t, err)
		return v
	}
	for _, n := range []int64{past - 1, past, past + 1, past + 15, past + 63, past + 64} {
		for _, at := range [][2]int64{{0, 0}, {1, 0}, {0, 1}, {15, 3}, {16, 17}, {63, 64}} {
			clear(target)
			dst, src := part(to, at[0], n), part(from, at[1], n)
			require.NoError(t, Copy(dst, src))
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
		require.NoError(t, Copy(dst, src))
		dst.Close()
		src.Close()
		require.True(t, bytes.Equal(want, source), "overlapping, to %d from %d", at[0], at[1])
	}
}

func TestADTypeIsChangedInPlace(t *testing.T) {
	noLeaks(t)
	doubles := newClosed(t, Float64, 4)
	floats, err := FromPointer(doubles.Data(), Float32, []int64{4}, nil, Device{}, nil)
	require.NoError(t, err)
	defer floats.Close()
	values, err := Slice[float64](doubles)
	require.NoError(t, err)
	copy(values, []float64{1, 2, 3, 4})
	require.NoError(t, Copy(floats, doubles))
	got, err := Slice[float32](floats)
	require.NoError(t, err)
	assert.Equal(t, []float32{1, 2, 3, 4}, got)
	require.NoError(t, Copy(doubles, floats))
	assert.Equal(t, []float64{1, 2, 3, 4}, values)
}

func TestCopiesThatHaveNoMeaningAreRefused(t *testing.T) {
	noLeaks(t)
	x := newClosed(t, Float32, 2, 3)
	requireError(t, Copy(x, newClosed(t, Float32, 6)), "shape [6] into [2 3]")
	fp8, other := newClosed(t, Float8E5M2, 2, 3), newClosed(t, Float8E4M3FN, 2, 3)
	requireError(t, Copy(x, fp8), "no conversion from float8_e5m2 to float32")
	requireError(t, Copy(fp8, x), "no conversion from float32 to float8_e5m2")
	requireError(t, Copy(fp8, other), "no conversion")
	require.NoError(t, Copy(fp8, newClosed(t, Float8E5M2, 2, 3)))
	device, err := FromPointer(x.Data(), Float32, []int64{2, 3}, nil, Device{Type: CUDA}, nil)
	require.NoError(t, err)
	defer device.Close()
	requireError(t, Copy(x, device), "from cuda:0 to cpu")
	requireError(t, Copy(device, device), "only CPU memory")
	require.NoError(t, Copy(newClosed(t, Float32, 0, 2), newClosed(t, Int8, 0, 2)))
}
