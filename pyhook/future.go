package pyhook

import (
	"context"
	"sync"
	"sync/atomic"

	"pyhook/internal/ctxerr"
)

// Future is a value that is there later: torch.futures.Future in Go's manner.
// It may be used from any goroutine. Nothing of Python is held while one waits.
type Future struct {
	mu        sync.Mutex  // never held while Python is called: see GradBucket
	completed atomic.Bool // set once value and err are
	closed    bool
	value     Value
	err       error
	done      chan struct{} // made when first asked for
	callbacks []func(Value, error)
	reading   int // callbacks that are running

	place   func(error) error // says where in Wait's own errors; may be nil
	relabel func(error) error // of the error that it completes with; may be nil
	source  *awaited          // what completes it, set before others see it; nil: Go does
}

var closedChannel = func() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// NewFuture returns a Future and the function that completes it; only the first
// call of that counts. The value is the future's from then on.
func NewFuture() (*Future, func(Value, error)) {
	f := &Future{}
	return f, func(v Value, err error) { f.complete(v, err) }
}

// CompletedFuture returns a Future that is done.
func CompletedFuture(v Value, err error) *Future {
	f := &Future{value: v, err: err}
	f.completed.Store(true)
	return f
}

// label makes f's errors say where they are. For whoever made f or was handed
// it first, before others see it.
func (f *Future) label(place func(error) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.place, f.relabel = place, place
	if f.err != nil {
		f.err = place(f.err)
	}
}

// complete reports whether it was the first.
func (f *Future) complete(v Value, err error) bool {
	f.mu.Lock()
	if f.completed.Load() {
		f.mu.Unlock()
		return false
	}
	if err != nil && f.relabel != nil {
		err = f.relabel(err)
	}
	f.value, f.err = v, err
	f.completed.Store(true)
	done, callbacks := f.done, f.callbacks
	f.callbacks, f.reading = nil, len(f.callbacks)
	drop := f.closed && f.reading == 0
	f.mu.Unlock()
	if done != nil {
		close(done)
	}
	for _, callback := range callbacks {
		go f.run(callback)
	}
	if drop {
		v.close()
	}
	return true
}

// onDone runs callback on a goroutine of its own when f is done; the value
// stays until it returns.
func (f *Future) onDone(callback func(Value, error)) {
	f.mu.Lock()
	if !f.completed.Load() {
		f.callbacks = append(f.callbacks, callback)
		f.mu.Unlock()
		return
	}
	f.reading++
	f.mu.Unlock()
	go f.run(callback)
}

func (f *Future) run(callback func(Value, error)) {
	callback(f.value, f.err)
	f.mu.Lock()
	f.reading--
	drop := f.closed && f.reading == 0
	f.mu.Unlock()
	if drop {
		f.value.close()
	}
}

// Done returns a channel that is closed when the future is done.
func (f *Future) Done() <-chan struct{} {
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

// Wait returns the value or the error, or the context's error if that ends
// first (the work goes on then).
func (f *Future) Wait(ctx context.Context) (Value, error) {
	if f.completed.Load() {
		return f.value, f.err
	}
	if f.source != nil {
		f.source.block(ctx)
	}
	select {
	case <-f.Done():
		return f.value, f.err
	case <-ctx.Done():
		return Value{}, f.stillPending(ctx)
	}
}

func (f *Future) stillPending(ctx context.Context) error {
	err := error(ctxerr.While(ctx, "waiting for a future"))
	if f.place != nil {
		return f.place(err)
	}
	return err
}

// Then returns the future of fn's result. fn runs on a goroutine of its own
// once f has a value, which stays until fn returns even if f is closed; an error
// of f passes to the result without fn.
func (f *Future) Then(fn func(Value) (Value, error)) *Future {
	next := &Future{place: f.place}
	f.onDone(func(v Value, err error) {
		if err != nil {
			next.complete(Value{}, err)
			return
		}
		out, err := fn(v)
		if err == nil && out.held == v.held {
			out, err = out.clone() // each future closes its own
		}
		next.complete(out, err)
	})
	return next
}

// Close lets go of the value. Idempotent. A pending future on which Then was
// called lets go of it later; one without fails with ErrClosed at once for those
// who still wait.
func (f *Future) Close() {
	f.mu.Lock()
	if f.closed {
		f.mu.Unlock()
		return
	}
	f.closed = true
	drop := f.completed.Load() && f.reading == 0
	abandon := f.source != nil && !f.completed.Load() && len(f.callbacks) == 0
	f.mu.Unlock()
	switch {
	case drop:
		f.value.close()
	case abandon:
		f.source.abandon()
	}
}
