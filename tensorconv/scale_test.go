package tensorconv

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestScalingIsBitForBitTorchs: as c10d's Reducer scales gradients.
func TestScalingIsBitForBitTorchs(t *testing.T) {
	noLeaks(t)
	random := rand.New(rand.NewPCG(9, 8))
	for _, dtype := range []DType{Float64, Float32, Float16, BFloat16, Complex64, Complex128} {
		t.Run(dtype.String(), func(t *testing.T) {
			for by := 1; by <= 16; by++ {
				x, y := newClosed(t, dtype, 4099), newClosed(t, dtype, 4099)
				randomize(t, random, x)
				if dtype.IsComplex() {
					ordinary(t, random, x)
				}
				o := toPython(t, x)
				want := call(t, "scaled", o, by).([]byte)
				o.Close()
				require.NoError(t, Scale(y, x, 1/float64(by)))
				before := newClosed(t, dtype, 4099)
				require.NoError(t, Copy(before, x))
				require.NoError(t, Scale(x, x, 1/float64(by)))
				sameElements(t, x, before, walk(x), walk(y))
				if dtype.IsComplex() {
					require.True(t, nearly(dtype, walk(y), want), "by %d", by)
					continue
				}
				if (dtype == Float16 || dtype == BFloat16) && oldTorch(t) {
					continue // it rounds the factor to half precision before
				}
				sameElements(t, y, before, walk(y), want)
				require.False(t, t.Failed(), "by %d", by)
			}
		})
	}
}

func TestScaleConvertsAndTakesStrides(t *testing.T) {
	noLeaks(t)
	x, err := FromSlice([]float64{1, 2, 3, 4, 5, 6})
	require.NoError(t, err)
	defer x.Close()
	transposed, err := x.View(0, []int64{3, 2}, []int64{1, 3})
	require.NoError(t, err)
	defer transposed.Close()
	y := newClosed(t, Float32, 3, 2)
	require.NoError(t, Scale(y, transposed, 0.5))
	got, err := Slice[float32](y)
	require.NoError(t, err)
	require.Equal(t, []float32{0.5, 2, 1, 2.5, 1.5, 3}, got)
	require.ErrorContains(t, Scale(y, x, 2), "shape")
	require.Error(t, Scale(transposed, y, 2), "not contiguous")
	require.ErrorContains(t, Scale(newClosed(t, Int32, 1), newClosed(t, Int32, 1), 2), "int32 is not scaled")
}
