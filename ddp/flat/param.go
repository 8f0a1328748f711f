package flat

import (
	"errors"
	"fmt"
	"slices"
	"unsafe"

	"pyhook/c10d"
	"pyhook/ddp"
	"pyhook/tensor"
)

// Element is what a gradient's elements are in Go. uint16 are the bits of float16 numbers.
type Element interface{ float32 | float64 | uint16 }

// Param is one parameter of the model: the trainer's own slices, in row-major order.
type Param[T Element] struct {
	Name string
	// Shape, as hooks see it (PowerSGD compresses matrices); nil: one dimension; empty: a scalar.
	Shape []int64
	// Value is the parameter. nil, then for all parameters, leaves broadcasting and comparing them
	// to the trainer. Its memory must stay where it is; see ErrMoved.
	Value *[]T
	// Grad is its gradient, in whatever memory it has when Ready or Step is called.
	Grad *[]T
}

// ErrMoved: a parameter's values are not where they were in New, so that hooks would see former
// ones. A trainer whose values move leaves Param.Value out.
var ErrMoved = errors.New("the parameter's values have moved since flat.New")

// check says what is wrong with this rank's parameters.
func check[T Element](params []Param[T], opts ddp.Options) error {
	if len(params) == 0 {
		return errors.New("flat: no parameters")
	}
	if opts.StaticGraph {
		return errors.New("flat: Options.StaticGraph is for parameters that are marked several times in a step: here Ready marks one once, when its gradient is complete")
	}
	names, grads := map[string]bool{}, map[*[]T]string{}
	for i, p := range params {
		switch {
		case p.Name == "":
			return fmt.Errorf("flat: parameter %d has no name", i)
		case names[p.Name]:
			return fmt.Errorf("flat: two parameters are called %s", p.Name)
		case p.Grad == nil:
			return fmt.Errorf("flat: %s has no Grad", p.Name)
		case grads[p.Grad] != "":
			return fmt.Errorf("flat: %s and %s have one Grad: give a parameter that the model uses twice once", grads[p.Grad], p.Name)
		case (p.Value == nil) != (params[0].Value == nil):
			return fmt.Errorf("flat: one of %s and %s has a Value and one has none: give all or none", params[0].Name, p.Name)
		}
		names[p.Name], grads[p.Grad] = true, p.Name
		n, _, _, err := tensor.Extent(p.shape(), nil)
		if err == nil && int64(len(*p.Grad)) != n {
			err = fmt.Errorf("its gradient has %d elements and its shape is %v", len(*p.Grad), p.shape())
		}
		if err == nil && p.Value != nil && int64(len(*p.Value)) != n {
			err = fmt.Errorf("its value has %d elements and its shape is %v", len(*p.Value), p.shape())
		}
		if err != nil {
			return fmt.Errorf("flat: %s: %w", p.Name, err)
		}
	}
	return nil
}

func (p Param[T]) shape() []int64 {
	switch {
	case p.Shape == nil && p.Value != nil: // there may be no gradient yet
		return []int64{int64(len(*p.Value))}
	case p.Shape == nil:
		return []int64{int64(len(*p.Grad))}
	}
	return p.Shape
}

func dtypeOf[T Element]() tensor.DType {
	switch any(*new(T)).(type) {
	case float32:
		return tensor.Float32
	case float64:
		return tensor.Float64
	}
	return tensor.Float16
}

// parameters makes the Reducer's parameters, over the trainer's values. The caller closes them.
func parameters[T Element](params []Param[T]) ([]*c10d.Parameter, error) {
	list := make([]*c10d.Parameter, len(params))
	for i, p := range params {
		list[i] = &c10d.Parameter{Name: p.Name, Shape: slices.Clone(p.shape()), DType: dtypeOf[T]()}
		if p.Value == nil {
			continue
		}
		whole, err := tensor.FromSliceAs(*p.Value, dtypeOf[T]())
		if err == nil {
			list[i].Data, err = whole.View(0, list[i].Shape, nil) // also a scalar's
			whole.Close()
		}
		if err != nil {
			closeParameters(list[:i])
			return nil, fmt.Errorf("flat: %s: %w", p.Name, err)
		}
	}
	return list, nil
}

func closeParameters(list []*c10d.Parameter) {
	for _, p := range list {
		p.Close()
		p.Data.Close()
	}
}

// moved says whether the trainer's values are still those that hooks see.
func moved[T Element](p Param[T], seen *c10d.Parameter) error {
	if p.Value == nil || len(*p.Value) == 0 {
		return nil
	}
	if unsafe.Pointer(unsafe.SliceData(*p.Value)) == seen.Data.Data() && int64(len(*p.Value)) == seen.Data.Len() {
		return nil
	}
	return fmt.Errorf("flat: %s: %w", p.Name, ErrMoved)
}
