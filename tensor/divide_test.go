package tensor_test

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"testing"

	"pyhook/internal/torchtest"
	"pyhook/tensor"

	"github.com/stretchr/testify/require"
)

func TestDivisionIsBitForBitTorchs(t *testing.T) {
	torchtest.NoLeaks(t)
	random := rand.New(rand.NewPCG(7, 8))
	for _, dtype := range []tensor.DType{tensor.Float64, tensor.Float32, tensor.Float16, tensor.BFloat16, tensor.Complex64, tensor.Complex128} {
		t.Run(dtype.String(), func(t *testing.T) {
			for by := 1; by <= 16; by++ {
				x := torchtest.New(t, dtype, 4099)
				torchtest.Randomize(t, random, x)
				if dtype.IsComplex() {
					ordinary(t, random, x)
				}
				before := torchtest.New(t, dtype, 4099)
				require.NoError(t, tensor.Copy(before, x))
				o := torchtest.ToPython(t, x)
				want := torchtest.Call(t, "divided", o, by).([]byte)
				o.Close()
				require.NoError(t, tensor.Divide(x, float64(by)))
				if dtype.IsComplex() && roundsOtherwise(t) {
					require.True(t, nearly(dtype, torchtest.Walk(x), want), "by %d", by)
					continue
				}
				sameElements(t, x, before, torchtest.Walk(x), want)
				require.False(t, t.Failed(), "by %d", by)
			}
		})
	}
}

// oldTorch reports whether this torch is one of before version 2.
func oldTorch(t testing.TB) bool {
	t.Helper()
	return torchtest.Call(t, "evaluate", "torch.__version__.startswith('1.')").(bool)
}

// roundsOtherwise reports whether this torch divides complex numbers in an older
// way: 1.13, and such as 2.6, where not even a division by 1 keeps all of them.
func roundsOtherwise(t testing.TB) bool {
	t.Helper()
	const changed = "(lambda x: not torch.equal(x, x / 1))(torch.view_as_complex(torch.linspace(-3, 3, 8192).sin().view(-1, 2)))"
	return oldTorch(t) || torchtest.Call(t, "evaluate", changed).(bool)
}

// nearly reports whether a and b differ by two units of the last place at most.
func nearly(dtype tensor.DType, a, b []byte) bool {
	for i := 0; i < len(a); i += dtype.Size() / 2 {
		x, y := binary.LittleEndian.Uint32(a[i:]), binary.LittleEndian.Uint32(b[i:])
		p, q := uint64(x), uint64(y)
		if dtype == tensor.Complex128 {
			p, q = binary.LittleEndian.Uint64(a[i:]), binary.LittleEndian.Uint64(b[i:])
		}
		if max(p, q)-min(p, q) > 2 {
			return false
		}
	}
	return true
}

// ordinary fills a complex tensor with finite values, some of them zeros of either sign.
func ordinary(t testing.TB, random *rand.Rand, x *tensor.Tensor) {
	t.Helper()
	raw, err := tensor.RawBytes(x)
	require.NoError(t, err)
	for i := 0; i < len(raw); i += x.DType().Size() / 2 {
		v := random.NormFloat64()
		if random.IntN(8) == 0 {
			v = math.Copysign(0, v)
		}
		if x.DType() == tensor.Complex64 {
			binary.LittleEndian.PutUint32(raw[i:], math.Float32bits(float32(v)))
		} else {
			binary.LittleEndian.PutUint64(raw[i:], math.Float64bits(v))
		}
	}
}

func TestDivisionsThatHaveNoMeaningAreRefused(t *testing.T) {
	torchtest.NoLeaks(t)
	x := torchtest.New(t, tensor.Float32, 4)
	strided, err := x.View(0, []int64{2}, []int64{2})
	require.NoError(t, err)
	defer strided.Close()
	torchtest.RequireError(t, tensor.Divide(strided, 2), "not contiguous CPU memory")
	torchtest.RequireError(t, tensor.Divide(torchtest.New(t, tensor.Int64, 2), 2), "int64 is not divided")
	torchtest.RequireError(t, tensor.Divide(torchtest.New(t, tensor.Float8E5M2, 2), 2), "float8_e5m2 is not divided")
	require.NoError(t, tensor.Divide(torchtest.New(t, tensor.Float32, 0), 2))
}
