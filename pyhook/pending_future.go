package pyhook

import (
	"context"
	"fmt"
	"runtime"
	"sync/atomic"

	"pyhook/c10d"
	"pyhook/cbridge"
)

// pendingFuture completes a Go future with the result of a torch future that is pending. Closing
// the Go future, or the Runtime, frees what it holds.
type pendingFuture struct {
	rt      *Runtime
	pending cbridge.Pending
	bucket  *c10d.GradBucket // of the hook call; nil for other futures
	python  *pythonBucket    // a reference, or nil
	wrapErr func(error) error
	promise c10d.Promise[c10d.Result]

	blocked atomic.Bool // a goroutine is in Block
}

// newPendingFuture makes the Go future of a torch future that is pending. It takes over
// python, which may be nil. wrapErr adds hook, rank and bucket to errors.
func (rt *Runtime) newPendingFuture(pending cbridge.Pending, b *c10d.GradBucket, python *pythonBucket, wrapErr func(error) error) *c10d.Future[c10d.Result] {
	a := &pendingFuture{rt: rt, pending: pending, bucket: b, python: python, wrapErr: wrapErr}
	a.promise.Init(a, wrapErr)
	var result cbridge.Result
	if a.pending.Arm(a, &result) {
		a.FutureDone(result)
	} else if rt.closed.Load() {
		a.Abandon() // Close may have gone through the pending ones before
	}
	return a.promise.Future()
}

// FutureDone: see cbridge.Receiver.
func (a *pendingFuture) FutureDone(result cbridge.Result) {
	value, err := resultOf(&result, a.bucket, a.python, a.wrapErr)
	if !a.promise.Complete(value, err) && value != nil {
		value.Release()
	}
	a.python.release()
}

// blocking counts the threads that are in Block.
var blocking atomic.Int32

// Block returns when a's future is done or ctx has ended. It returns at once if a wait in C would
// take the last processor from Go, or if another goroutine is in Block already.
func (a *pendingFuture) Block(ctx context.Context) {
	if blocking.Add(1) < int32(runtime.GOMAXPROCS(0)) && a.blocked.CompareAndSwap(false, true) {
		var result cbridge.Result
		if a.pending.Block(ctx, &result) {
			a.FutureDone(result)
		}
		a.blocked.Store(false)
	}
	blocking.Add(-1)
}

// Abandon fails the Go future with c10d.ErrClosed: nobody will read the result.
func (a *pendingFuture) Abandon() {
	a.promise.Complete(nil, a.wrapErr(fmt.Errorf("the future: %w", c10d.ErrClosed)))
	if a.pending.Abandon() {
		a.python.release()
	}
}

// abandonAll abandons the futures that are pending when the Runtime ends.
func (rt *Runtime) abandonAll() {
	for _, receiver := range cbridge.Receivers() {
		if a, ok := receiver.(*pendingFuture); ok && a.rt == rt {
			a.Abandon()
		}
	}
}
