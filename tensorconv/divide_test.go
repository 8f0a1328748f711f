package tensorconv

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestDivisionIsBitForBitTorchs(t *testing.T) {
	noLeaks(t)
	random := rand.New(rand.NewPCG(7, 8))
	for _, dtype := range []DType{Float64, Float32, Float16, BFloat16, Complex64, Complex128} {
		t.Run(dtype.String(), func(t *testing.T) {
			for by := 1; by <= 16; by++ {
				x := newClosed(t, dtype, 4099)
				randomize(t, random, x)
				if dtype.IsComplex() {
					ordinary(t, random, x)
				}
				before := newClosed(t, dtype, 4099)
				require.NoError(t, Copy(before, x))
				o := toPython(t, x)
				want := call(t, "divided", o, by).([]byte)
				o.Close()
				require.NoError(t, Divide(x, float64(by)))
				if dtype.IsComplex() && roundsOtherwise(t) {
					require.True(t, nearly(dtype, walk(x), want), "by %d", by)
					continue
				}
				sameElements(t, x, before, walk(x), want)
				require.False(t, t.Failed(), "by %d", by)
			}
		})
	}
}

// oldTorch reports whether this torch is one of before version 2.
func oldTorch(t testing.TB) bool {
	t.Helper()
	return call(t, "evaluate", "torch.__version__.startswith('1.')").(bool)
}

// roundsOtherwise reports whether this torch divides complex numbers in an older
// way: 1.13, and such as 2.6, where not even a division by 1 keeps all of them.
func roundsOtherwise(t testing.TB) bool {
	t.Helper()
	const changed = "(lambda x: not torch.equal(x, x / 1))(torch.view_as_complex(torch.linspace(-3, 3, 8192).sin().view(-1, 2)))"
	return oldTorch(t) || call(t, "evaluate", changed).(bool)
}

// nearly reports whether a and b differ by two units of the last place at most.
func nearly(dtype DType, a, b []byte) bool {
	for i := 0; i < len(a); i += dtype.Size() / 2 {
		x, y := binary.LittleEndian.Uint32(a[i:]), binary.LittleEndian.Uint32(b[i:])
		p, q := uint64(x), uint64(y)
		if dtype == Complex128 {
			p, q = binary.LittleEndian.Uint64(a[i:]), binary.LittleEndian.Uint64(b[i:])
		}
		if max(p, q)-min(p, q) > 2 {
			return false
		}
	}
	return true
}

// ordinary fills a complex tensor with finite values, some of them zeros of either sign.
func ordinary(t testing.TB, random *rand.Rand, x *Tensor) {
	t.Helper()
	raw, err := RawBytes(x)
	require.NoError(t, err)
	for i := 0; i < len(raw); i += x.dtype.Size() / 2 {
		v := random.NormFloat64()
		if random.IntN(8) == 0 {
			v = math.Copysign(0, v)
		}
		if x.dtype == Complex64 {
			binary.LittleEndian.PutUint32(raw[i:], math.Float32bits(float32(v)))
		} else {
			binary.LittleEndian.PutUint64(raw[i:], math.Float64bits(v))
		}
	}
}

func TestDivisionsThatHaveNoMeaningAreRefused(t *testing.T) {
	noLeaks(t)
	x := newClosed(t, Float32, 4)
	strided, err := x.View(0, []int64{2}, []int64{2})
	require.NoError(t, err)
	defer strided.Close()
	requireError(t, Divide(strided, 2), "not contiguous CPU memory")
	requireError(t, Divide(newClosed(t, Int64, 2), 2), "int64 is not divided")
	requireError(t, Divide(newClosed(t, Float8E5M2, 2), 2), "float8_e5m2 is not divided")
	require.NoError(t, Divide(newClosed(t, Float32, 0), 2))
}
