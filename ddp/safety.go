package ddp

import (
	"cmp"
	"fmt"

	"pyhook/c10d"
	"pyhook/internal/debuggc"
	"pyhook/tensor"
)

// usesShadowBuffer says whether hooks work on other memory than the gradients'.
func (r *Reducer) usesShadowBuffer() bool { return r.opts.Rollback || r.looksForLateWrites() }

func (r *Reducer) looksForLateWrites() bool { return r.opts.LateWrites || debuggc.On }

// fillHookBuffer, before a hook call, gives the bucket's gradients to the hook.
func (r *Reducer) fillHookBuffer(index int) error {
	b := r.buckets[index]
	if r.usesShadowBuffer() && b.dirty { // after the step that failed there was no memory
		r.mu.Lock()
		err := r.replaceShadowBufferLocked(index)
		r.mu.Unlock()
		if err != nil {
			return err
		}
	}
	b.dirty = true
	if !r.usesShadowBuffer() || b.sparse {
		return nil
	}
	if err := r.lateWrite(index); err != nil {
		return err
	}
	if r.looksForLateWrites() {
		b.late.Store(&lateWrites{memory: b.memory, work: b.work})
	}
	return b.memory.Copy(b.work, b.buffer)
}

// replaceShadowBufferLocked, after a failed step, gives the next hook call
// memory that nothing of the former one can still write to. Without such memory the next step's call
// tries again.
func (r *Reducer) replaceShadowBufferLocked(index int) error {
	b := r.buckets[index]
	if !b.dirty || b.sparse {
		return nil
	}
	cfg := r.bucketConfig(index, len(r.buckets), b.params)
	work, err := r.newBuffer(b.memory, b.work.DType(), b.work.Len())
	if err != nil {
		return err
	}
	cfg.Buffer = work
	grad, err := c10d.NewGradBucket(cfg)
	if err != nil {
		work.Close()
		return err
	}
	former := &bucket{grad: b.grad, work: b.work, busy: b.busy}
	b.grad, b.work, b.busy, b.dirty = grad, work, nil, false
	b.late.Store(nil)
	former.free()
	return nil
}

// checkResult says what is wrong with a result that can be read.
func (r *Reducer) checkResult(index int, res *result, t *tensor.Tensor) error {
	if err := r.lateWrite(index); err != nil || !r.opts.CheckFinite {
		return err
	}
	if res.reduced != nil {
		t = res.reduced.Values
	}
	at, err := r.buckets[index].memory.FirstNonFinite(t)
	if err != nil || at < 0 {
		return err
	}
	i, of := r.parameterAt(index, at)
	if res.reduced != nil {
		of = at // of its values
	}
	return r.hookError(index, c10d.ErrNonFinite,
		fmt.Sprintf("element %d of the result's %d is NaN or infinite, the first of them: element %d of parameter %s", at, t.Len(), of, r.params[i].Name),
		"look for a division by zero or an overflow, in fp16 perhaps, in the hook and before it")
}

// parameterAt returns whose element is at an offset of a bucket, and which of its.
func (r *Reducer) parameterAt(index int, at int64) (i int, k int64) {
	for _, i = range r.buckets[index].params {
		n := elementsIn(r.params[i])
		if at < n {
			break
		}
		at -= n
	}
	if r.params[i].DType.IsComplex() {
		at /= 2 // a part of it
	}
	return i, at
}

func (r *Reducer) hookError(index int, code c10d.Code, detail, hint string) error {
	return &c10d.Error{Op: "hook " + cmp.Or(r.hookName(), "(none: a sum)"), Rank: r.opts.Group.Rank(), Bucket: index, Code: code, Detail: detail, Hint: hint}
}

// lateWrites is of one hook call: what its bucket held as its future was done.
type lateWrites struct {
	memory memory
	work   *tensor.Tensor
	sum    uint64
	done   bool // sum is set
}

// begin is called as the future is done, on whichever thread that is; w may be nil.
func (w *lateWrites) begin() {
	if w == nil {
		return
	}
	sum, err := w.memory.Checksum(w.work)
	w.sum, w.done = sum, err == nil
}

// lateWrite says whether a bucket has changed since its future was done.
func (r *Reducer) lateWrite(index int) error {
	w := r.buckets[index].late.Load()
	if w == nil || !w.done {
		return nil
	}
	if now, err := w.memory.Checksum(w.work); err != nil || now == w.sum {
		return err
	}
	return r.hookError(index, ErrLateWrite, "its memory is not what it was then",
		"complete the future after the last write: return the future of the last `then`, and wait for threads and collectives that write to the bucket")
}

// LateWrites says, between two steps, whether a hook has written to its bucket since
// its future was done: as the next Wait would. Ask before Close. The error is a
// *StepError that is ErrLateWrite; nil without Options.LateWrites.
func (r *Reducer) LateWrites() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return ErrClosed
	}
	for i := range r.buckets {
		if err := r.lateWrite(i); err != nil {
			return r.stepError(i, err)
		}
	}
	return nil
}
