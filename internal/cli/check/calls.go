package check

import (
	"context"
	"sync"
	"time"

	"pyhook/c10d"
	"pyhook/pyhook"
	"pyhook/tensor"
)

// calls is what the Reducer's hook calls are seen by, of one phase: when each
// begins and ends, and its result.
type calls struct {
	run    *rankRun
	python *pyhook.PythonCommHook // nil: the hook is Go's
	judge  func(index int, bucket *c10d.GradBucket, result *tensor.Tensor) error

	mu     sync.Mutex
	step   int
	called int       // in this step
	begin  time.Time // of the first call
	end    time.Time // of the last future, as the first result is read
	parsed int
}

// next begins a step.
func (c *calls) next(step int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.step, c.called, c.parsed = step, 0, 0
}

// took is the time from the step's first call to its last future.
func (c *calls) took() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.end.Sub(c.begin)
}

// call runs a hook call.
func (c *calls) call(b *c10d.GradBucket, call func() (*c10d.Future[c10d.Result], error)) (*c10d.Future[c10d.Result], error) {
	c.mu.Lock()
	if c.called == 0 {
		c.begin = time.Now()
	}
	c.called++
	step := c.step
	c.mu.Unlock()
	c.run.mark(begun, step, b.Index())
	future, err := call()
	c.run.mark(returned, step, b.Index())
	if err != nil || future == nil {
		return future, err
	}
	done := future.Done()
	select {
	case <-done:
		c.run.mark(over, step, b.Index())
	default:
		go func() {
			<-done
			c.run.mark(over, step, b.Index())
		}()
	}
	return future, nil
}

// parse reads the result of the next bucket: the Reducer reads them in their
// order, when all of them are there.
func (c *calls) parse(bucket *c10d.GradBucket, r c10d.Result, parse func(*c10d.GradBucket, c10d.Result) (*tensor.Tensor, error)) (*tensor.Tensor, error) {
	c.mu.Lock()
	if c.parsed == 0 {
		c.end = time.Now()
		c.run.enter("judging the results", startLimit)
	}
	index := c.parsed
	c.parsed++
	c.mu.Unlock()
	result, err := parse(bucket, r)
	if err != nil {
		return nil, err
	}
	if err := c.judge(index, bucket, result); err != nil {
		result.Close()
		return nil, err
	}
	if c.python != nil {
		c.run.used(c.python.LegacyNames(bucket))
	}
	return result, nil
}

// pythonCalls is a Python hook whose calls are timed and judged. What else it can do the Reducer
// sees through the embedding.
type pythonCalls struct {
	*pyhook.PythonCommHook
	calls *calls
}

func (h *pythonCalls) RunHook(ctx context.Context, b *c10d.GradBucket) (*c10d.Future[c10d.Result], error) {
	return h.calls.call(b, func() (*c10d.Future[c10d.Result], error) { return h.PythonCommHook.RunHook(ctx, b) })
}

func (h *pythonCalls) RunHookChained(ctx context.Context, b *c10d.GradBucket) (future *c10d.Future[c10d.Result], chain c10d.Chain, err error) {
	future, err = h.calls.call(b, func() (*c10d.Future[c10d.Result], error) {
		var called *c10d.Future[c10d.Result]
		called, chain, err = h.PythonCommHook.RunHookChained(ctx, b)
		return called, err
	})
	return future, chain, err
}

func (h *pythonCalls) ParseHookResult(b *c10d.GradBucket, r c10d.Result) (*tensor.Tensor, error) {
	return h.calls.parse(b, r, h.PythonCommHook.ParseHookResult)
}

// goCalls is a Go hook whose calls are timed and judged: pyhook's own ones issue collectives only
// when they are called.
type goCalls struct {
	c10d.CommHook
	calls *calls
}

func (h *goCalls) CollectivesOnlyInCall() bool {
	inner, ok := h.CommHook.(c10d.InCallHook)
	return ok && inner.CollectivesOnlyInCall()
}

func (h *goCalls) RunHook(ctx context.Context, b *c10d.GradBucket) (*c10d.Future[c10d.Result], error) {
	return h.calls.call(b, func() (*c10d.Future[c10d.Result], error) { return h.CommHook.RunHook(ctx, b) })
}

func (h *goCalls) ParseHookResult(b *c10d.GradBucket, r c10d.Result) (*tensor.Tensor, error) {
	return h.calls.parse(b, r, h.CommHook.ParseHookResult)
}

var (
	_ c10d.ChainedHook = (*pythonCalls)(nil)
	_ c10d.CommHook    = (*goCalls)(nil)
)
