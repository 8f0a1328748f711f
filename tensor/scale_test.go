package tensor_test

import (
	"math/rand/v2"
	"testing"

	"pyhook/internal/torchtest"
	"pyhook/tensor"

	"github.com/stretchr/testify/require"
)

// TestScalingIsBitForBitTorchs: as c10d's Reducer scales gradients.
func TestScalingIsBitForBitTorchs(t *testing.T) {
	torchtest.NoLeaks(t)
	random := rand.New(rand.NewPCG(9, 8))
	for _, dtype := range []tensor.DType{tensor.Float64, tensor.Float32, tensor.Float16, tensor.BFloat16, tensor.Complex64, tensor.Complex128} {
		t.Run(dtype.String(), func(t *testing.T) {
			for by := 1; by <= 16; by++ {
				x, y := torchtest.New(t, dtype, 4099), torchtest.New(t, dtype, 4099)
				torchtest.Randomize(t, random, x)
				if dtype.IsComplex() {
					ordinary(t, random, x)
				}
				o := torchtest.ToPython(t, x)
				want := torchtest.Call(t, "scaled", o, by).([]byte)
				o.Close()
				require.NoError(t, tensor.Scale(y, x, 1/float64(by)))
				before := torchtest.New(t, dtype, 4099)
				require.NoError(t, tensor.Copy(before, x))
				require.NoError(t, tensor.Scale(x, x, 1/float64(by)))
				sameElements(t, x, before, torchtest.Walk(x), torchtest.Walk(y))
				if dtype.IsComplex() {
					require.True(t, nearly(dtype, torchtest.Walk(y), want), "by %d", by)
					continue
				}
				if (dtype == tensor.Float16 || dtype == tensor.BFloat16) && oldTorch(t) {
					continue // it rounds the factor to half precision before
				}
				sameElements(t, y, before, torchtest.Walk(y), want)
				require.False(t, t.Failed(), "by %d", by)
			}
		})
	}
}

func TestScaleConvertsAndTakesStrides(t *testing.T) {
	torchtest.NoLeaks(t)
	x, err := tensor.FromSlice([]float64{1, 2, 3, 4, 5, 6})
	require.NoError(t, err)
	defer x.Close()
	transposed, err := x.View(0, []int64{3, 2}, []int64{1, 3})
	require.NoError(t, err)
	defer transposed.Close()
	y := torchtest.New(t, tensor.Float32, 3, 2)
	require.NoError(t, tensor.Scale(y, transposed, 0.5))
	got, err := tensor.Slice[float32](y)
	require.NoError(t, err)
	require.Equal(t, []float32{0.5, 2, 1, 2.5, 1.5, 3}, got)
	require.ErrorContains(t, tensor.Scale(y, x, 2), "shape")
	require.Error(t, tensor.Scale(transposed, y, 2), "not contiguous")
	require.ErrorContains(t, tensor.Scale(torchtest.New(t, tensor.Int32, 1), torchtest.New(t, tensor.Int32, 1), 2), "int32 is not scaled")
}
