package tensor_test

import (
	"testing"

	"pyhook/tensor"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestAComplexViewSharesTheMemoryOfItsParts(t *testing.T) {
	reals, err := tensor.FromSlice([]float32{1, 2, 3, 4, 5, 6}, 3, 2)
	require.NoError(t, err)
	view, err := tensor.ViewAsComplex(reals)
	require.NoError(t, err)
	reals.Close()
	defer view.Close()
	numbers, err := tensor.Slice[complex64](view)
	require.NoError(t, err)
	assert.Equal(t, []complex64{1 + 2i, 3 + 4i, 5 + 6i}, numbers)
	assert.Equal(t, []int64{3}, view.Shape())

	doubles, err := tensor.FromSlice([]float64{7, 8}, 2)
	require.NoError(t, err)
	defer doubles.Close()
	one, err := tensor.ViewAsComplex(doubles)
	require.NoError(t, err)
	defer one.Close()
	assert.Equal(t, tensor.Complex128, one.DType())
	assert.Empty(t, one.Shape())
	assert.Equal(t, int64(1), one.Len())
}

func TestWhatIsNoPairsOfPartsHasNoComplexView(t *testing.T) {
	for name, make := range map[string]func() (*tensor.Tensor, error){
		"integers":     func() (*tensor.Tensor, error) { return tensor.New(tensor.Int32, 3, 2) },
		"three parts":  func() (*tensor.Tensor, error) { return tensor.New(tensor.Float32, 2, 3) },
		"a scalar":     func() (*tensor.Tensor, error) { return tensor.New(tensor.Float32) },
		"halves":       func() (*tensor.Tensor, error) { return tensor.New(tensor.Float16, 3, 2) },
		"with strides": func() (*tensor.Tensor, error) { return strided() },
	} {
		from, err := make()
		require.NoError(t, err)
		_, err = tensor.ViewAsComplex(from)
		require.ErrorContains(t, err, "view as complex", name)
		from.Close()
		_, err = tensor.ViewAsComplex(from)
		require.ErrorIs(t, err, tensor.ErrClosed)
	}
}

func strided() (*tensor.Tensor, error) {
	t, err := tensor.New(tensor.Float32, 3, 4)
	if err != nil {
		return nil, err
	}
	defer t.Close()
	return t.View(0, []int64{3, 2}, []int64{4, 1})
}

func TestThePartsOfADType(t *testing.T) {
	assert.Equal(t, []tensor.DType{tensor.Float32, tensor.Float64, tensor.Float16}, []tensor.DType{tensor.Complex64.Real(), tensor.Complex128.Real(), tensor.Float16.Real()})
}
