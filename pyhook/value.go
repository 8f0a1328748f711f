package pyhook

import "pyhook/tensorconv"

// Value is what a future completed with: a tensor of Go's, the bucket's own
// buffer, or a Python object that ParseHookResult reads. It belongs to its
// future and is valid until that is closed.
type Value struct {
	tensor *tensorconv.Tensor
	object *Object
	bucket *GradBucket // the bucket of the hook call; nil for other futures
}

// TensorValue makes the Value of a Go-native hook's future.
func TensorValue(t *tensorconv.Tensor) Value { return Value{tensor: t} }

// Tensor returns the Go tensor, or nil where the value is a Python object.
func (v Value) Tensor() *tensorconv.Tensor { return v.tensor }

// Object returns the Python object, or nil where the value is a Go tensor.
func (v Value) Object() *Object { return v.object }
