package gorgoniaddp

import (
	"fmt"
	"slices"

	"gorgonia.org/gorgonia"
	"gorgonia.org/tensor"
)

// elements returns the elements of a value, in its own memory: of a *tensor.Dense of that shape, in
// row-major order without gaps.
func elements[T float32 | float64](v gorgonia.Value, shape tensor.Shape) ([]T, error) {
	d, ok := v.(*tensor.Dense)
	if !ok {
		return nil, fmt.Errorf("a %T, and not a *tensor.Dense", v)
	}
	if !slices.Equal(d.Shape(), shape) {
		return nil, fmt.Errorf("its shape is %v", d.Shape())
	}
	// Not IsContiguous, which is true after a T(), too.
	want := 1
	for i := len(shape) - 1; i >= 0; i-- {
		if shape[i] != 1 && d.Strides()[i] != want {
			return nil, fmt.Errorf("it is not in row-major order: shape %v, strides %v", d.Shape(), d.Strides())
		}
		want *= shape[i]
	}
	var list any
	switch any(*new(T)).(type) {
	case float32:
		if d.Dtype() == tensor.Float32 {
			list = d.Float32s()
		}
	case float64:
		if d.Dtype() == tensor.Float64 {
			list = d.Float64s()
		}
	}
	s, ok := list.([]T)
	if !ok {
		return nil, fmt.Errorf("it is of %v", d.Dtype())
	}
	if len(s) != want {
		return nil, fmt.Errorf("it has %d elements, and its shape is %v", len(s), d.Shape())
	}
	return s, nil
}
