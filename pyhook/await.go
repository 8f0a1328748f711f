package pyhook

import (
	"context"
	"fmt"
	"runtime"
	"sync/atomic"

	"pyhook/cbridge"
)

// awaited is a torch future that is pending, and the Go future of it. Closing the Go
// future, or the Runtime, frees all that hangs on it here.
type awaited struct {
	rt      *Runtime
	pending cbridge.Pending
	bucket  *GradBucket   // of the hook call; nil for other futures
	python  *pythonBucket // a reference, or nil
	place   func(error) error
	result  Future

	blocked atomic.Bool // a goroutine is in block
}

// await makes the Go future of a torch future that is pending. It takes over
// python, which may be nil. place says where an error was.
func (rt *Runtime) await(pending cbridge.Pending, b *GradBucket, python *pythonBucket, place func(error) error) *Future {
	a := &awaited{rt: rt, pending: pending, bucket: b, python: python, place: place}
	a.result.place, a.result.source = place, a
	var result cbridge.Result
	if a.pending.Arm(a, &result) {
		a.FutureDone(result)
	} else if rt.closed.Load() {
		a.abandon() // Close may have gone through the pending ones before
	}
	return &a.result
}

// FutureDone: see cbridge.Receiver.
func (a *awaited) FutureDone(result cbridge.Result) {
	value, err := valueOf(&result, a.bucket, a.python, a.place)
	if !a.result.complete(value, err) {
		value.close()
	}
	a.python.release()
}

// blocking counts the threads that are in block.
var blocking atomic.Int32

// block returns when a's future is done, when ctx has ended, or at once. Where a wait in
// C would take the last processor from Go, or another goroutine waits so already, it
// does not wait.
func (a *awaited) block(ctx context.Context) {
	if blocking.Add(1) < int32(runtime.GOMAXPROCS(0)) && a.blocked.CompareAndSwap(false, true) {
		var result cbridge.Result
		if a.pending.Block(ctx, &result) {
			a.FutureDone(result)
		}
		a.blocked.Store(false)
	}
	blocking.Add(-1)
}

// abandon is for a result that nobody will read.
func (a *awaited) abandon() {
	a.result.complete(Value{}, a.place(fmt.Errorf("the future: %w", ErrClosed)))
	if a.pending.Abandon() {
		a.python.release()
	}
}

// abandonAll is for what is pending when the Runtime ends.
func (rt *Runtime) abandonAll() {
	for _, receiver := range cbridge.Receivers() {
		if a, ok := receiver.(*awaited); ok && a.rt == rt {
			a.abandon()
		}
	}
}

// valueOf makes the value, or the error, of a future that is done. A value that
// is Python's holds a reference of python.
func valueOf(result *cbridge.Result, b *GradBucket, python *pythonBucket, place func(error) error) (Value, error) {
	if result.Changed {
		b.forget(python)
	}
	switch result.Outcome {
	case cbridge.Failed:
		return Value{}, place(result.TakeError())
	case cbridge.Same:
		return Value{tensor: python.buffer, bucket: b}, nil
	}
	if python != nil {
		python.refs.Add(1)
	}
	return Value{bucket: b, held: &held{object: result.TakeObject(), python: python}}, nil
}
