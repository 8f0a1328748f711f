package hooks

import (
	"pyhook/c10d"
	"pyhook/tensor"
)

// What the hooks do with a bucket's elements, where those are.

func newTensor(b *c10d.GradBucket, dtype tensor.DType, n int64) (*tensor.Tensor, error) {
	if m := b.Memory(); m != nil {
		return m.New(dtype, n)
	}
	return tensor.New(dtype, n)
}

func copyTensor(b *c10d.GradBucket, dst, src *tensor.Tensor) error {
	if m := b.Memory(); m != nil {
		return m.Copy([]*tensor.Tensor{dst}, []*tensor.Tensor{src})
	}
	return tensor.Copy(dst, src)
}

func divide(b *c10d.GradBucket, t *tensor.Tensor, divisor float64) error {
	if m := b.Memory(); m != nil {
		return m.Divide(t, divisor)
	}
	return tensor.Divide(t, divisor)
}
