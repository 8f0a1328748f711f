package c10d

import (
	"fmt"
	"math"
	"slices"

	"pyhook/tensor"
)

// SparseGradient is a gradient most of whose rows are zero: torch's sparse COO
// tensor, as nn.Embedding(sparse=True) makes it. Row k of Values is added at
// index Indices[:, k] of the parameter; an index may come several times, and in
// any order. Both are contiguous CPU memory.
type SparseGradient struct {
	Indices *tensor.Tensor // int64 [sparse dimensions, nnz]; an embedding has one sparse dimension
	Values  *tensor.Tensor // [nnz, the parameter's other dimensions...], of its dtype
}

// NNZ returns how many rows Values has.
func (g *SparseGradient) NNZ() int64 { return g.Indices.Shape()[1] }

// Close closes both tensors. Idempotent; nil is allowed.
func (g *SparseGradient) Close() {
	if g != nil {
		g.Indices.Close()
		g.Values.Close()
	}
}

// Release closes both tensors: for the future whose value it is.
func (g *SparseGradient) Release() { g.Close() }

// Views returns handles of its own on the same memory.
func (g *SparseGradient) Views() (*SparseGradient, error) {
	if g.Indices == nil || g.Values == nil {
		return nil, fmt.Errorf("%w: indices or values are nil: for no rows give tensors of shapes [1 0] and [0 ...], or mark it unused", ErrSparseGradient)
	}
	indices, err := g.Indices.View(0, g.Indices.Shape(), g.Indices.Strides())
	if err != nil {
		return nil, fmt.Errorf("%w: the indices: %w", ErrSparseGradient, err)
	}
	values, err := g.Values.View(0, g.Values.Shape(), g.Values.Strides())
	if err != nil {
		indices.Close()
		return nil, fmt.Errorf("%w: the values: %w", ErrSparseGradient, err)
	}
	return &SparseGradient{indices, values}, nil
}

// CheckSparseGradient says whether g is a gradient of p, and returns handles of
// its own on g's memory, for the caller to close. The error is
// ErrSparseGradient. It reads every index.
func CheckSparseGradient(g *SparseGradient, p *Parameter) (*SparseGradient, error) {
	if g == nil {
		return nil, fmt.Errorf("%w: it is nil", ErrSparseGradient)
	}
	own, err := g.Views()
	if err != nil {
		return nil, err
	}
	if err := own.check(p); err != nil {
		own.Close()
		return nil, fmt.Errorf("%w: %w", ErrSparseGradient, err)
	}
	return own, nil
}

func (g *SparseGradient) check(p *Parameter) error {
	for _, t := range []*tensor.Tensor{g.Indices, g.Values} {
		if !t.Device().IsCPU() || !t.IsContiguous() {
			return fmt.Errorf("%s with strides %v is not contiguous CPU memory", t, t.Strides())
		}
	}
	shape := g.Indices.Shape()
	if g.Indices.DType() != tensor.Int64 || len(shape) != 2 {
		return fmt.Errorf("the indices are %s and not int64 of shape [sparse dimensions, nnz]", g.Indices)
	}
	if shape[0] < 1 || shape[0] > int64(len(p.Shape)) {
		return fmt.Errorf("indices of shape %v for a parameter of shape %v", shape, p.Shape)
	}
	want := append([]int64{shape[1]}, p.Shape[shape[0]:]...)
	if g.Values.DType() != p.DType || !slices.Equal(g.Values.Shape(), want) {
		return fmt.Errorf("the values are %s and not %s%v, for %d rows of a parameter of shape %v", g.Values, p.DType, want, shape[1], p.Shape)
	}
	elements, err := tensor.Slice[int64](g.Indices)
	if err != nil {
		return err
	}
	for k, at := range elements {
		dimension := int64(k) / shape[1]
		if at < 0 || at >= p.Shape[dimension] {
			return fmt.Errorf("index %d of row %d is not in 0..%d, the parameter's dimension %d", at, int64(k)%shape[1], p.Shape[dimension]-1, dimension)
		}
	}
	return nil
}

// NewSparseGradient makes one of nnz rows, for a gradient of p with so many
// sparse dimensions. The elements are zero. The caller closes it.
func NewSparseGradient(p *Parameter, sparseDims int, nnz int64) (*SparseGradient, error) {
	if sparseDims < 1 || sparseDims > len(p.Shape) {
		return nil, fmt.Errorf("%w: %d sparse dimensions of a parameter of shape %v", ErrSparseGradient, sparseDims, p.Shape)
	}
	indices, err := tensor.New(tensor.Int64, int64(sparseDims), nnz)
	if err != nil {
		return nil, err
	}
	values, err := tensor.New(p.DType, append([]int64{nnz}, p.Shape[sparseDims:]...)...)
	if err != nil {
		indices.Close()
		return nil, err
	}
	return &SparseGradient{indices, values}, nil
}

// NewSparseGradBucket makes bucket index of count for a sparse parameter, which has a bucket of its
// own, whose gradient hooks see as the buffer (reducer.cpp, mark_variable_ready_sparse). It takes
// handles of its own on g's memory: hooks may write to it. Make one for each hook call, since the
// memory is another one in each step. The error is ErrSparseGradient.
func NewSparseGradBucket(index, count int, p *Parameter, g *SparseGradient) (*GradBucket, error) {
	if index < 0 || index >= count {
		return nil, fmt.Errorf("bucket %d of %d: the index is not in 0..%d", index, count, count-1)
	}
	own, err := CheckSparseGradient(g, p)
	if err != nil {
		return nil, fmt.Errorf("bucket %d, %s: %w", index, p.Name, err)
	}
	return &GradBucket{cfg: BucketConfig{Index: index, Count: count}, params: []*Parameter{p}, sparse: own}, nil
}

// Keys returns the indices of g's rows as single numbers, in row-major order of a parameter's shape.
func (g *SparseGradient) Keys(shape []int64) ([]int64, error) {
	elements, err := tensor.Slice[int64](g.Indices)
	if err != nil {
		return nil, err
	}
	nnz := g.NNZ()
	keys := make([]int64, nnz)
	for d := range g.Indices.Shape()[0] {
		for k := range nnz {
			if keys[k] > math.MaxInt64/max(shape[d], 1)-1 {
				return nil, fmt.Errorf("%w: shape %v is too large", ErrSparseGradient, shape)
			}
			keys[k] = keys[k]*shape[d] + elements[d*nnz+k]
		}
	}
	return keys, nil
}

// SetKeys is the inverse: it writes the indices that keys stand for.
func (g *SparseGradient) SetKeys(keys, shape []int64) error {
	elements, err := tensor.Slice[int64](g.Indices)
	if err != nil {
		return err
	}
	nnz := int64(len(keys))
	for k, key := range keys {
		for d := g.Indices.Shape()[0] - 1; d >= 0; d-- {
			elements[d*nnz+int64(k)] = key % shape[d]
			key /= shape[d]
		}
	}
	return nil
}
