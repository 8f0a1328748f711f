package tensorconv

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestAComplexViewSharesTheMemoryOfItsParts(t *testing.T) {
	reals, err := FromSlice([]float32{1, 2, 3, 4, 5, 6}, 3, 2)
	require.NoError(t, err)
	view, err := ViewAsComplex(reals)
	require.NoError(t, err)
	reals.Close()
	defer view.Close()
	numbers, err := Slice[complex64](view)
	require.NoError(t, err)
	assert.Equal(t, []complex64{1 + 2i, 3 + 4i, 5 + 6i}, numbers)
	assert.Equal(t, []int64{3}, view.Shape())

	doubles, err := FromSlice([]float64{7, 8}, 2)
	require.NoError(t, err)
	defer doubles.Close()
	one, err := ViewAsComplex(doubles)
	require.NoError(t, err)
	defer one.Close()
	assert.Equal(t, Complex128, one.DType())
	assert.Empty(t, one.Shape())
	assert.Equal(t, int64(1), one.Len())
}

func TestWhatIsNoPairsOfPartsHasNoComplexView(t *testing.T) {
	for name, make := range map[string]func() (*Tensor, error){
		"integers":     func() (*Tensor, error) { return New(Int32, 3, 2) },
		"three parts":  func() (*Tensor, error) { return New(Float32, 2, 3) },
		"a scalar":     func() (*Tensor, error) { return New(Float32) },
		"halves":       func() (*Tensor, error) { return New(Float16, 3, 2) },
		"with strides": func() (*Tensor, error) { return strided() },
	} {
		from, err := make()
		require.NoError(t, err)
		_, err = ViewAsComplex(from)
		require.ErrorContains(t, err, "view as complex", name)
		from.Close()
		_, err = ViewAsComplex(from)
		require.ErrorIs(t, err, ErrClosed)
	}
}

func strided() (*Tensor, error) {
	t, err := New(Float32, 3, 4)
	if err != nil {
		return nil, err
	}
	defer t.Close()
	return t.View(0, []int64{3, 2}, []int64{4, 1})
}

func TestThePartsOfADType(t *testing.T) {
	assert.Equal(t, []DType{Float32, Float64, Float16}, []DType{Complex64.Real(), Complex128.Real(), Float16.Real()})
}
