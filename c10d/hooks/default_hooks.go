// Package hooks has communication hooks in Go, which need no Python: c10d's default hooks
// (torch/csrc/distributed/c10d/default_comm_hooks.cpp), bit for bit.
package hooks

import (
	"context"
	"errors"
	"fmt"

	"pyhook/c10d"
	"pyhook/tensor"
)

// AllReduceCommHook averages a bucket over the ranks: c10d::AllReduceCommHook. It divides first,
// then sums, so its results are bitwise those of PyTorch's. It takes sparse buckets too: see
// AverageSparse.
type AllReduceCommHook struct{ Group c10d.ProcessGroup }

// Description implements c10d.DescribedHook.
func (h *AllReduceCommHook) Description() string { return "Go's AllReduceCommHook" }

// CollectivesOnlyInCall returns true, so that package ddp overlaps its buckets on any backend: no callback
// of it starts a collective.
func (h *AllReduceCommHook) CollectivesOnlyInCall() bool { return true }

// RunHook: see c10d.CommHook.
func (h *AllReduceCommHook) RunHook(ctx context.Context, b *c10d.GradBucket) (*c10d.Future[c10d.Result], error) {
	wrapErr := func(err error) error { return hookError("AllReduceCommHook", h.Group, b, err) }
	if h.Group == nil {
		return nil, wrapErr(errNoGroup)
	}
	if b.Sparse() != nil {
		future, err := AverageSparse(ctx, h.Group, b.Parameters()[0], b.Sparse())
		if err != nil {
			return nil, wrapErr(err)
		}
		return SparseFuture(future, wrapErr), nil
	}
	if err := divide(b, b.Buffer(), float64(h.Group.Size())); err != nil {
		return nil, wrapErr(err)
	}
	future, err := c10d.GroupOf(b, h.Group).AllReduce(ctx, b.Buffer(), c10d.Sum)
	if err != nil {
		return nil, wrapErr(err)
	}
	return TensorFuture(future, wrapErr), nil
}

// TensorFuture is the future of a hook whose result is a collective's tensor. It takes f over;
// wrapErr makes its errors, nil leaves them as they are.
func TensorFuture(f *c10d.Future[*tensor.Tensor], wrapErr func(error) error) *c10d.Future[c10d.Result] {
	return c10d.Map(f, wrapErr, func(t *tensor.Tensor) (c10d.Result, error) { return c10d.TensorResult{Tensor: t}, nil })
}

// SparseFuture is TensorFuture for a sparse gradient, as AverageSparse gives it.
func SparseFuture(f *c10d.Future[*c10d.SparseGradient], wrapErr func(error) error) *c10d.Future[c10d.Result] {
	return c10d.Map(f, wrapErr, func(g *c10d.SparseGradient) (c10d.Result, error) {
		own, err := g.Views() // g is closed with its future
		return c10d.SparseResult{Gradient: own}, err
	})
}

// ParseHookResult: see c10d.CommHook.
func (h *AllReduceCommHook) ParseHookResult(b *c10d.GradBucket, r c10d.Result) (*tensor.Tensor, error) {
	t, err := c10d.ParseTensor(r)
	if err != nil {
		return nil, hookError("AllReduceCommHook", h.Group, b, err)
	}
	return t, nil
}

// ParseSparseHookResult: see c10d.SparseHook.
func (h *AllReduceCommHook) ParseSparseHookResult(b *c10d.GradBucket, r c10d.Result) (*c10d.SparseGradient, error) {
	g, err := c10d.ParseSparse(r)
	if err != nil {
		return nil, hookError("AllReduceCommHook", h.Group, b, err)
	}
	return g, nil
}

// FP16CompressCommHook averages a bucket in half precision: c10d::FP16CompressCommHook.
type FP16CompressCommHook struct{ Group c10d.ProcessGroup }

// Description implements c10d.DescribedHook.
func (h *FP16CompressCommHook) Description() string { return "Go's FP16CompressCommHook" }

// CollectivesOnlyInCall: see AllReduceCommHook.
func (h *FP16CompressCommHook) CollectivesOnlyInCall() bool { return true }

// RunHook: see c10d.CommHook. The result is written back to the bucket.
func (h *FP16CompressCommHook) RunHook(ctx context.Context, b *c10d.GradBucket) (*c10d.Future[c10d.Result], error) {
	wrapErr := func(err error) error { return hookError("FP16CompressCommHook", h.Group, b, err) }
	if h.Group == nil {
		return nil, wrapErr(errNoGroup)
	}
	buffer := b.Buffer()
	if buffer == nil {
		return nil, wrapErr(fmt.Errorf("%w: the bucket is sparse, and this hook takes dense ones only", c10d.ErrSparse))
	}
	if err := notComplex(buffer); err != nil {
		return nil, wrapErr(err)
	}
	half, err := newTensor(b, tensor.Float16, buffer.Len())
	if err != nil {
		return nil, wrapErr(err)
	}
	err = copyTensor(b, half, buffer)
	if err == nil {
		err = divide(b, half, float64(h.Group.Size()))
	}
	var sum *c10d.Future[*tensor.Tensor]
	if err == nil {
		sum, err = c10d.GroupOf(b, h.Group).AllReduce(ctx, half, c10d.Sum)
	}
	if err != nil {
		half.Close()
		return nil, wrapErr(err)
	}
	result := &c10d.Promise[c10d.Result]{}
	result.Init(nil, wrapErr)
	sum.OnDone(func(_ *tensor.Tensor, err error) {
		defer half.Close()
		defer sum.Close()
		if err == nil {
			err = copyTensor(b, buffer, half)
		}
		if err != nil {
			err = wrapErr(err)
		}
		result.Complete(c10d.TensorResult{Tensor: buffer}, err)
	})
	return result.Future(), nil
}

// ParseHookResult: see c10d.CommHook.
func (h *FP16CompressCommHook) ParseHookResult(b *c10d.GradBucket, r c10d.Result) (*tensor.Tensor, error) {
	t, err := c10d.ParseTensor(r)
	if err != nil {
		return nil, hookError("FP16CompressCommHook", h.Group, b, err)
	}
	return t, nil
}

// notComplex returns the error of a hook that would lose imaginary parts; nil: it would not.
func notComplex(t *tensor.Tensor) error {
	if !t.DType().IsComplex() {
		return nil
	}
	return fmt.Errorf("%w: %s: half precision has no complex numbers, and the imaginary parts would be lost\nhint: give the real view, as package ddp does", c10d.ErrComplex, t)
}

var errNoGroup = errors.New("its Group is nil: give it the one of ddp.Options")

func hookError(hook string, group c10d.ProcessGroup, b *c10d.GradBucket, err error) error {
	bucket := -1
	if b != nil {
		bucket = b.Index()
	}
	rank := -1
	if group != nil {
		rank = group.Rank()
	}
	e := c10d.NewError("hook "+hook, rank, bucket, c10d.ErrRaised, err)
	var known *c10d.Error
	if errors.As(err, &known) && known.Code.Is(c10d.ErrBadResult) { // of ParseTensor, which knows no hook
		e.Detail = known.Detail
	}
	if e.Hint == "" {
		e.Hint = e.Code.Hint()
	}
	return e
}

var (
	_ c10d.SparseHook = (*AllReduceCommHook)(nil)
	_ c10d.CommHook   = (*FP16CompressCommHook)(nil)
)
