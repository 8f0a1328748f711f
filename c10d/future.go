package c10d

import (
	"context"
	"reflect"
	"sync"
	"sync/atomic"

	"pyhook/internal/ctxerr"
)

// Future is the result of an asynchronous operation: torch.futures.Future for Go. Any goroutine may
// use it. Nothing of Python is held while one waits.
type Future[T any] struct {
	mu        sync.Mutex  // never held while Python is called: see GradBucket
	completed atomic.Bool // set once value and err are
	closed    atomic.Bool // set with mu held
	value     T
	err       error
	done      chan struct{} // made when first asked for
	inline    func(T, error)
	callbacks []func(T, error) (keep bool)
	readers   int  // callbacks that run, and futures of Then that have the same value
	borrowed  bool // the value is another future's: see Then
	dropped   bool
	release   func()

	source  Source
	wrapErr func(error) error // of Wait's own errors; may be nil
}

// Source is what completes a future, for one that can wait better than on a channel.
type Source interface {
	// Block returns when the future is done, when ctx has ended, or at once.
	Block(ctx context.Context)
	// Abandon completes the future with ErrClosed: nobody will read it.
	Abandon()
}

// Promise is the side of a Future that completes it. It holds the future, so that both are one
// allocation. The zero value is ready.
type Promise[T any] struct{ future Future[T] }

// Init, before others see the future, sets its source and what makes Wait's own errors, when its
// context ends, of the context's error. Either may be nil.
func (p *Promise[T]) Init(source Source, wrapErr func(error) error) {
	p.future.source, p.future.wrapErr = source, wrapErr
}

// Future returns the future.
func (p *Promise[T]) Future() *Future[T] { return &p.future }

// Complete completes the future, and reports whether it was the first to do so. The future takes
// the value over: one with a method Release is released when the future is closed.
func (p *Promise[T]) Complete(v T, err error) bool { return p.future.complete(v, err) }

// NewFuture returns a Future and the function that completes it; only the first call of that counts.
func NewFuture[T any]() (*Future[T], func(T, error)) {
	f := &Future[T]{}
	return f, func(v T, err error) { f.complete(v, err) }
}

// CompletedFuture returns a Future that is done.
func CompletedFuture[T any](v T, err error) *Future[T] {
	f := &Future[T]{value: v, err: err}
	f.completed.Store(true)
	return f
}

var closedChannel = func() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// complete reports whether it was the first.
func (f *Future[T]) complete(v T, err error) bool {
	f.mu.Lock()
	if f.completed.Load() {
		f.mu.Unlock()
		return false
	}
	f.value, f.err = v, err
	f.completed.Store(true)
	done, inline, callbacks := f.done, f.inline, f.callbacks
	f.callbacks, f.inline, f.readers = nil, nil, len(f.callbacks)
	drop := f.closed.Load() && f.readers == 0 && inline == nil
	f.mu.Unlock()
	if inline != nil {
		inline(v, err)
	}
	if done != nil {
		close(done)
	}
	for _, callback := range callbacks {
		go f.run(callback)
	}
	if drop {
		f.dropValue()
	}
	return true
}

// OnDone runs callback on a goroutine of its own when f is done. The value stays until callback
// returns, also when f is closed.
func (f *Future[T]) OnDone(callback func(T, error)) {
	f.onDone(func(v T, err error) bool {
		callback(v, err)
		return false
	})
}

// onDone is OnDone; a callback that returns true keeps the value until it calls doneReading.
func (f *Future[T]) onDone(callback func(T, error) (keep bool)) {
	f.mu.Lock()
	if !f.completed.Load() {
		f.callbacks = append(f.callbacks, callback)
		f.mu.Unlock()
		return
	}
	f.readers++
	f.mu.Unlock()
	go f.run(callback)
}

func (f *Future[T]) run(callback func(T, error) (keep bool)) {
	if !callback(f.value, f.err) {
		f.doneReading()
	}
}

func (f *Future[T]) doneReading() {
	f.mu.Lock()
	f.readers--
	drop := f.closed.Load() && f.readers == 0
	f.mu.Unlock()
	if drop {
		f.dropValue()
	}
}

// dropValue lets go of the value, once: f is closed, and nobody reads.
func (f *Future[T]) dropValue() {
	f.mu.Lock()
	dropped := f.dropped
	f.dropped = true
	f.mu.Unlock()
	if dropped {
		return
	}
	if f.release != nil {
		f.release()
	}
	if v, ok := any(f.value).(interface{ Release() }); ok && !f.borrowed && f.err == nil {
		v.Release()
	}
}

// IsDone reports whether the future is done, so that Wait returns at once.
func (f *Future[T]) IsDone() bool { return f.completed.Load() }

// Done returns a channel that is closed when the future is done.
func (f *Future[T]) Done() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.completed.Load() {
		return closedChannel
	}
	if f.done == nil {
		f.done = make(chan struct{})
	}
	return f.done
}

// Wait returns the value or the error, or the context's error if that ends first (the work goes on
// then). The value belongs to the future, and is valid until that is closed.
func (f *Future[T]) Wait(ctx context.Context) (T, error) {
	if f.completed.Load() {
		return f.value, f.err
	}
	if f.source != nil {
		f.source.Block(ctx)
	}
	select {
	case <-f.Done():
		return f.value, f.err
	case <-ctx.Done():
		var none T
		return none, f.stillPending(ctx)
	}
}

func (f *Future[T]) stillPending(ctx context.Context) error {
	err := error(ctxerr.While(ctx, "waiting for a future"))
	if f.wrapErr != nil {
		return f.wrapErr(err)
	}
	return err
}

// Then returns the future of fn's result. fn runs on a goroutine of its own once f has a value,
// which stays until fn returns even if f is closed; an error of f passes to the result without fn.
// fn may return the value that it was given, which then stays until both futures are closed; one
// that == cannot compare counts as another.
func (f *Future[T]) Then(fn func(T) (T, error)) *Future[T] {
	next := &Future[T]{wrapErr: f.wrapErr}
	f.onDone(func(v T, err error) (keep bool) {
		var none T
		if err != nil {
			next.complete(none, err)
			return false
		}
		out, err := fn(v)
		keep = same(out, v)
		if err != nil {
			if made, ok := any(out).(interface{ Release() }); ok && !keep {
				made.Release()
			}
			next.complete(none, err)
			return false
		}
		if keep {
			next.mu.Lock()
			next.borrowed, next.release = true, f.doneReading
			next.mu.Unlock()
		}
		next.complete(out, nil)
		return keep
	})
	return next
}

// same is a == b, or false where that would panic.
func same[T any](a, b T) bool {
	return reflect.ValueOf(&a).Elem().Comparable() && reflect.ValueOf(&b).Elem().Comparable() && any(a) == any(b)
}

// Map returns the future of what convert makes of f's value, and takes f over. convert runs on the
// thread that completes f, which may hold Python's GIL: it must be quick and call no Python. wrapErr
// (nil is allowed) makes the errors of the result, those of Wait's own too.
func Map[T, U any](f *Future[T], wrapErr func(error) error, convert func(T) (U, error)) *Future[U] {
	next := &Future[U]{wrapErr: wrapErr}
	finish := func(v T, err error) {
		var out U
		if err == nil {
			out, err = convert(v)
		}
		if err != nil && wrapErr != nil {
			err = wrapErr(err)
		}
		next.complete(out, err)
		f.Close()
	}
	f.mu.Lock()
	if !f.completed.Load() {
		if f.source != nil {
			next.source = f.source
		}
		f.inline = finish
		f.mu.Unlock()
		return next
	}
	f.mu.Unlock()
	finish(f.value, f.err)
	return next
}

// Abandon completes a pending future that has a Source with ErrClosed: whoever still waits for it
// gets that, and what would have completed it counts no more.
func (f *Future[T]) Abandon() {
	if f.source != nil && !f.completed.Load() {
		f.source.Abandon()
	}
}

// Close lets go of the value. Idempotent. A pending future on which Then was called lets go of it
// later; one without fails with ErrClosed at once for those who still wait.
func (f *Future[T]) Close() {
	if f.closed.Load() {
		return
	}
	f.mu.Lock()
	if f.closed.Swap(true) {
		f.mu.Unlock()
		return
	}
	drop := f.completed.Load() && f.readers == 0
	abandon := f.source != nil && !f.completed.Load() && len(f.callbacks) == 0
	f.mu.Unlock()
	switch {
	case drop:
		f.dropValue()
	case abandon:
		f.source.Abandon()
	}
}
