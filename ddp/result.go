package ddp

import (
	"errors"

	"pyhook/c10d"
	"pyhook/tensor"
)

// busy returns the future of what may still write to the bucket: collectives, or, if the call was
// given up or interrupted, a thread of the hook's that nobody knows of. nil: nothing.
func (res *result) busy() *c10d.Future[c10d.Result] {
	switch {
	case res.future != nil && !res.future.IsDone():
		return res.future // done after what is left
	case res.left != nil && !res.left.IsDone():
		return res.left
	case errors.Is(res.err, errAbandoned), errors.Is(res.err, c10d.ErrInterrupted):
		return c10d.CompletedFuture[c10d.Result](nil, nil)
	}
	return nil
}

// parse reads a result and makes sure that it can be copied to the bucket.
func (r *Reducer) parse(res *result, b *bucket) (*tensor.Tensor, error) {
	t, err := r.opts.Hook.ParseHookResult(res.grad, res.value)
	if err != nil {
		return nil, err
	}
	err = c10d.CheckResult(t, b.buffer)
	if err != nil {
		t.Close()
		return nil, err
	}
	return t, nil
}
