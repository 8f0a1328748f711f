package pyhook

import (
	"sync/atomic"

	"pyhook/tensor"
)

// Value is what a future completed with: a tensor of Go's, the bucket's own
// buffer, or a Python object that ParseHookResult reads. It belongs to its
// future and is valid until that is closed.
type Value struct {
	tensor *tensor.Tensor
	bucket *GradBucket // of the hook call; nil for other futures
	held   *held
}

// held is what of a value is closed with it. Values are copied, so it is shared.
type held struct {
	object *Object
	sparse *SparseGradient
	tensor *tensor.Tensor // of OwnedTensorValue
	python *pythonBucket  // what the hook was called with, to read object by
	closed atomic.Bool
}

// TensorValue makes the Value of a Go-native hook's future.
func TensorValue(t *tensor.Tensor) Value { return Value{tensor: t} }

// Tensor returns the Go tensor, or nil where the value is a Python object.
func (v Value) Tensor() *tensor.Tensor { return v.tensor }

// Object returns the Python object, or nil where the value is a Go tensor.
func (v Value) Object() *Object {
	if v.held == nil {
		return nil
	}
	return v.held.object
}

// SparseValue makes the Value of a Go-native hook's future for a sparse bucket,
// and takes g over.
func SparseValue(g *SparseGradient) Value { return Value{held: &held{sparse: g}} }

// Sparse returns the Go sparse gradient, or nil.
func (v Value) Sparse() *SparseGradient {
	if v.held == nil {
		return nil
	}
	return v.held.sparse
}

func (v Value) close() {
	if v.held != nil && v.held.closed.CompareAndSwap(false, true) {
		v.held.object.Close()
		v.held.sparse.Close()
		v.held.tensor.Close()
		v.held.python.release()
	}
}

// clone returns a value of the same object for a second owner; v is open.
func (v Value) clone() (Value, error) {
	if v.held == nil {
		return v, nil
	}
	if v.held.sparse != nil {
		sparse, err := v.held.sparse.views()
		return SparseValue(sparse), err
	}
	if v.held.tensor != nil {
		t, err := v.tensor.View(0, v.tensor.Shape(), v.tensor.Strides())
		return OwnedTensorValue(t), err
	}
	object, err := v.held.object.Clone()
	if err != nil {
		return Value{}, err
	}
	if v.held.python != nil {
		v.held.python.refs.Add(1)
	}
	return Value{bucket: v.bucket, held: &held{object: object, python: v.held.python}}, nil
}
