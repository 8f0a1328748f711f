package hookbench

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"pyhook/c10d"
	"pyhook/pyhook"
	"pyhook/tensor"
)

// goSide is what package ddp does for a bucket.
type goSide struct {
	ctx    context.Context
	hook   c10d.ChainedHook
	bucket *c10d.GradBucket
	buffer *tensor.Tensor
	moved  bool      // a result was not the buffer's own memory
	chain  bool      // calls are chained, and the chain drained
	paused bool      // sleep a millisecond before each call, which is not counted
	others []*goSide // that call at the same time, with buckets of their own
}

func (b *bench) newGoSide(ctx context.Context, rt *pyhook.Runtime) (*goSide, error) {
	params, parameters, err := b.parameters(rt)
	if err != nil {
		return nil, err
	}
	state, err := b.newState(parameters)
	if err != nil {
		return nil, err
	}
	hook, err := rt.WrapHook(ctx, b.hook, pyhook.HookConfig{State: state})
	if err != nil {
		return nil, err
	}
	b.closers = append(b.closers, hook.Close)
	var all []*goSide
	for range max(1, b.c.Callers) {
		bucket, err := b.c.bucket(b.buffer, params)
		if err != nil {
			return nil, err
		}
		b.closers = append(b.closers, bucket.Close)
		all = append(all, &goSide{ctx: ctx, hook: hook, bucket: bucket, buffer: b.buffer})
	}
	all[0].others, all[0].paused, all[0].chain = all[1:], b.c.Busy, b.c.Chained
	return all[0], nil
}

// parameters are those of the buckets and their Python list, for a state that is made
// with them; nil where there is no state, or the buffer is on a GPU.
func (b *bench) parameters(rt *pyhook.Runtime) ([]*c10d.Parameter, *pyhook.Object, error) {
	if b.c.Spec.State == "" || b.c.GPU {
		return nil, nil, nil
	}
	params := make([]*c10d.Parameter, b.c.Params)
	for i := range params {
		params[i] = &c10d.Parameter{Name: fmt.Sprintf("parameter%d", i), Shape: b.c.shape(), DType: b.buffer.DType()}
		b.closers = append(b.closers, params[i].Close)
	}
	list, err := b.keep(rt.Parameters(params...))
	return params, list, err
}

var start = time.Now()

func (g *goSide) run(ns []int64) error {
	if g.paused {
		for i := range ns {
			time.Sleep(time.Millisecond)
			if err := g.calls(ns[i : i+1]); err != nil {
				return err
			}
		}
		return nil
	}
	if len(g.others) == 0 {
		return g.calls(ns)
	}
	var callers sync.WaitGroup
	errs := make([]error, 1+len(g.others))
	each := len(ns) / len(errs)
	for i, one := range append([]*goSide{g}, g.others...) {
		callers.Go(func() { errs[i] = one.calls(ns[i*each : (i+1)*each]) })
	}
	callers.Wait()
	return errors.Join(errs...)
}

func (g *goSide) calls(ns []int64) error {
	before := time.Since(start) // one reading of the monotonic clock
	for i := range ns {
		if err := g.call(); err != nil {
			return err
		}
		after := time.Since(start)
		ns[i] = int64(after - before)
		before = after
	}
	return nil
}

func (g *goSide) call() error {
	future, err := g.runHook()
	if err != nil {
		return err
	}
	value, err := future.Wait(g.ctx)
	if err != nil {
		return err
	}
	result, err := g.hook.ParseHookResult(g.bucket, value)
	if err != nil {
		return err
	}
	if result.Len() != g.buffer.Len() {
		return errors.New("the result has another length")
	}
	g.moved = g.moved || result.Data() != g.buffer.Data()
	result.Close()
	future.Close()
	return nil
}

// runHook calls the hook; in a chain also its callbacks.
func (g *goSide) runHook() (*c10d.Future[c10d.Result], error) {
	if !g.chain {
		return g.hook.RunHook(g.ctx, g.bucket)
	}
	future, chain, err := g.hook.RunHookChained(g.ctx, g.bucket)
	if err != nil {
		return nil, err
	}
	defer chain.Close()
	for more := true; more; {
		if more, err = chain.Advance(g.ctx); err != nil {
			future.Close()
			return nil, err
		}
	}
	return future, nil
}

// account counts the Go allocations of a call, and notes whether its result
// was the buffer's own memory.
func (g *goSide) account(r *Row) error {
	const calls = 20
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range calls {
		if err := g.call(); err != nil {
			return err
		}
	}
	runtime.ReadMemStats(&after)
	r.GoAllocs = float64(after.Mallocs-before.Mallocs) / calls
	r.GoAllocBytes = float64(after.TotalAlloc-before.TotalAlloc) / calls
	r.SameMemory = !g.moved
	return nil
}
