package pyhook

import (
	"context"

	"pyhook/tensor"
)

// AllReduceCommHook averages a bucket over the ranks: c10d::AllReduceCommHook
// (torch/csrc/distributed/c10d/default_comm_hooks.cpp). It divides first, then
// sums, so its results are bitwise those of PyTorch's.
type AllReduceCommHook struct{ Group ProcessGroup }

// CollectivesOnlyInCall tells package ddp that its buckets may overlap on any
// backend: no callback of it starts a collective.
func (h *AllReduceCommHook) CollectivesOnlyInCall() bool { return true }

// RunHook: see CommHook.
func (h *AllReduceCommHook) RunHook(ctx context.Context, b *GradBucket) (*Future, error) {
	buffer := b.Buffer()
	if err := tensor.Divide(buffer, float64(h.Group.Size())); err != nil {
		return nil, nativeError("AllReduceCommHook", h.Group, b, err)
	}
	future, err := h.Group.AllReduce(ctx, buffer, Sum)
	if err != nil {
		return nil, nativeError("AllReduceCommHook", h.Group, b, err)
	}
	future.label(func(err error) error { return nativeError("AllReduceCommHook", h.Group, b, err) })
	return future, nil
}

// ParseHookResult: see CommHook.
func (h *AllReduceCommHook) ParseHookResult(v Value) (*tensor.Tensor, error) {
	return nativeResult(v)
}

// FP16CompressCommHook averages a bucket in half precision:
// c10d::FP16CompressCommHook.
type FP16CompressCommHook struct{ Group ProcessGroup }

// CollectivesOnlyInCall: see AllReduceCommHook.
func (h *FP16CompressCommHook) CollectivesOnlyInCall() bool { return true }

// RunHook: see CommHook. The result is written back to the bucket.
func (h *FP16CompressCommHook) RunHook(ctx context.Context, b *GradBucket) (*Future, error) {
	fail := func(err error) (*Future, error) { return nil, nativeError("FP16CompressCommHook", h.Group, b, err) }
	buffer := b.Buffer()
	if err := notComplex(buffer); err != nil {
		return fail(err)
	}
	half, err := tensor.New(tensor.Float16, buffer.Len())
	if err != nil {
		return fail(err)
	}
	if err := firstError(tensor.Copy(half, buffer), tensor.Divide(half, float64(h.Group.Size()))); err != nil {
		half.Close()
		return fail(err)
	}
	sum, err := h.Group.AllReduce(ctx, half, Sum)
	if err != nil {
		half.Close()
		return fail(err)
	}
	result := &Future{}
	result.label(func(err error) error { return nativeError("FP16CompressCommHook", h.Group, b, err) })
	sum.onDone(func(_ Value, err error) {
		defer half.Close()
		defer sum.Close()
		if err == nil {
			err = tensor.Copy(buffer, half)
		}
		result.complete(Value{tensor: buffer, bucket: b}, err)
	})
	return result, nil
}

// ParseHookResult: see CommHook.
func (h *FP16CompressCommHook) ParseHookResult(v Value) (*tensor.Tensor, error) {
	return nativeResult(v)
}

func nativeResult(v Value) (*tensor.Tensor, error) {
	if v.tensor == nil {
		return nil, &HookError{Hook: "Go hook", Rank: -1, Bucket: -1, Kind: ErrNotTensor, Detail: "the future holds no Go tensor"}
	}
	return v.tensor.View(0, v.tensor.Shape(), v.tensor.Strides())
}

func nativeError(hook string, group ProcessGroup, b *GradBucket, err error) error {
	e := hookError(hook, group.Rank(), b.Index(), ErrRaised, err)
	e.Detail = err.Error()
	return e
}

var (
	_ CommHook = (*PythonCommHook)(nil)
	_ CommHook = (*AllReduceCommHook)(nil)
	_ CommHook = (*FP16CompressCommHook)(nil)
)
