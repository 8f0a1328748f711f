package ddp

import (
	"context"
	"fmt"

	"pyhook/pyhook"
	"pyhook/tensor"
)

// sumHook is what reduces without a hook: c10d's _AllReduceBySumCommHook.
type sumHook struct{ group pyhook.ProcessGroup }

// CollectivesOnlyInCall: see chooseOrder.
func (h sumHook) CollectivesOnlyInCall() bool { return true }

// RunHook: see pyhook.CommHook.
func (h sumHook) RunHook(ctx context.Context, b *pyhook.GradBucket) (*pyhook.Future, error) {
	future, err := h.group.AllReduce(ctx, b.Buffer(), pyhook.Sum)
	if err != nil {
		return nil, fmt.Errorf("summing without a hook: %w", err)
	}
	return future, nil
}

// RunSparseHook: see pyhook.SparseCommHook. It divides and sums, as PyTorch does
// for a sparse gradient without a hook.
func (h sumHook) RunSparseHook(ctx context.Context, b *pyhook.SparseGradBucket) (*pyhook.Future, error) {
	future, err := pyhook.AverageSparse(ctx, h.group, b.Parameter(), b.Gradient())
	if err != nil {
		return nil, fmt.Errorf("summing without a hook: %w", err)
	}
	return future, nil
}

// ParseSparseHookResult: see pyhook.SparseCommHook.
func (h sumHook) ParseSparseHookResult(_ *pyhook.SparseGradBucket, v pyhook.Value) (*pyhook.SparseGradient, error) {
	return pyhook.NativeSparseResult(v)
}

// ParseHookResult: see pyhook.CommHook.
func (h sumHook) ParseHookResult(v pyhook.Value) (*tensor.Tensor, error) {
	t := v.Tensor()
	if t == nil {
		return nil, fmt.Errorf("%w: the group's future holds no Go tensor", pyhook.ErrNotTensor)
	}
	return t.View(0, t.Shape(), t.Strides())
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
		return tensor.Divide(b.work, size)
	}
	for k, i := range b.params {
		if s.scaled[i] {
			continue
		}
		part, err := viewOf(b.work, b.grad.Offsets()[k], b.grad.Sizes()[k], dtype)
		if err != nil {
			return err
		}
		err = tensor.Divide(part, size)
		part.Close()
		if err != nil {
			return err
		}
	}
	return nil
}
