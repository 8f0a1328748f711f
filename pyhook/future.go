package pyhook

import (
	"context"
	"fmt"
	"sync"
)

// Future is a value that is there later: torch.futures.Future in Go's manner.
// It may be used from any goroutine. Nothing of Python is held, and no thread
// blocked, while one waits.
type Future struct {
	mu        sync.Mutex
	completed bool
	value     Value
	err       error
	done      chan struct{} // made when first asked for
	callbacks []func()
	closed    bool
}

var closedChannel = func() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// NewFuture returns a Future and the function that completes it; only the first
// call of that counts.
func NewFuture() (*Future, func(Value, error)) {
	f := &Future{}
	return f, f.complete
}

// CompletedFuture returns a Future that is done.
func CompletedFuture(v Value, err error) *Future {
	return &Future{completed: true, value: v, err: err}
}

func (f *Future) complete(v Value, err error) {
	f.mu.Lock()
	if f.completed {
		f.mu.Unlock()
		return
	}
	f.completed, f.value, f.err = true, v, err
	done, callbacks, closed := f.done, f.callbacks, f.closed
	f.callbacks = nil
	f.mu.Unlock()
	if done != nil {
		close(done)
	}
	for _, callback := range callbacks {
		go callback()
	}
	if closed {
		v.object.Close()
	}
}

// Done returns a channel that is closed when the future is done.
func (f *Future) Done() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.completed {
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
	f.mu.Lock()
	if f.completed {
		defer f.mu.Unlock()
		return f.value, f.err
	}
	f.mu.Unlock()
	select {
	case <-f.Done():
		return f.value, f.err
	case <-ctx.Done():
		return Value{}, fmt.Errorf("waiting for a future: %w", context.Cause(ctx))
	}
}

// Then returns the future of fn's result. fn runs on a goroutine of its own
// once f has a value; an error of f passes to the result without it.
func (f *Future) Then(fn func(Value) (Value, error)) *Future {
	next, complete := NewFuture()
	run := func() {
		if f.err != nil {
			complete(Value{}, f.err)
			return
		}
		complete(fn(f.value))
	}
	f.mu.Lock()
	if !f.completed {
		f.callbacks = append(f.callbacks, run)
		f.mu.Unlock()
		return next
	}
	f.mu.Unlock()
	go run()
	return next
}

// Close lets go of the value. Idempotent; a pending future lets go of it as it
// completes.
func (f *Future) Close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return
	}
	f.closed = true
	if f.completed {
		f.value.object.Close()
	}
}
