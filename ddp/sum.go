package ddp

import (
	"context"
	"fmt"

	"pyhook/c10d"
	"pyhook/c10d/hooks"
	"pyhook/tensor"
)

// sumHook is what reduces without a hook: c10d's _AllReduceBySumCommHook.
type sumHook struct{ group c10d.ProcessGroup }

// CollectivesOnlyInCall: see chooseOrder.
func (h sumHook) CollectivesOnlyInCall() bool { return true }

// RunHook: see c10d.CommHook. For a sparse gradient it divides and sums, as PyTorch does without a
// hook.
func (h sumHook) RunHook(ctx context.Context, b *c10d.GradBucket) (*c10d.Future[c10d.Result], error) {
	if b.Sparse() != nil {
		future, err := hooks.AverageSparse(ctx, h.group, b.Parameters()[0], b.Sparse())
		if err != nil {
			return nil, fmt.Errorf("summing without a hook: %w", err)
		}
		return hooks.SparseFuture(future, nil), nil
	}
	future, err := c10d.GroupOf(b, h.group).AllReduce(ctx, b.Buffer(), c10d.Sum)
	if err != nil {
		return nil, fmt.Errorf("summing without a hook: %w", err)
	}
	return hooks.TensorFuture(future, nil), nil
}

// ParseHookResult: see c10d.CommHook.
func (h sumHook) ParseHookResult(_ *c10d.GradBucket, r c10d.Result) (*tensor.Tensor, error) {
	return c10d.ParseTensor(r)
}

// ParseSparseHookResult: see c10d.SparseHook.
func (h sumHook) ParseSparseHookResult(_ *c10d.GradBucket, r c10d.Result) (*c10d.SparseGradient, error) {
	return c10d.ParseSparse(r)
}

// divide does what ReadyFrom has not done: it divides the gradients that the
// trainer wrote to the bucket itself. Called by the launcher, for a bucket all
// of whose gradients are ready.
func (r *Reducer) divide(s *step, b *bucket) error {
	size := float64(r.opts.Group.Size())
	scaled := 0
	for _, i := range b.params {
		if s.scaled[i] {
			scaled++
		}
	}
	// A complex quotient of what is not finite is not that of the parts.
	dtype := r.params[b.params[0]].DType
	if scaled == 0 && !dtype.IsComplex() {
		return b.memory.Divide(b.work, size)
	}
	for k, i := range b.params {
		if s.scaled[i] {
			continue
		}
		part, err := viewOf(b.work, b.grad.Offsets()[k], b.grad.Sizes()[k], dtype)
		if err != nil {
			return err
		}
		err = b.memory.Divide(part, size)
		part.Close()
		if err != nil {
			return err
		}
	}
	return nil
}
