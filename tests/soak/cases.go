package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"pyhook/c10d"
	"pyhook/pyhook"
	"pyhook/tensor"
)

// hookCase is one kind of call, and how often a round makes it.
type hookCase struct {
	name  string
	times int
	call  func(context.Context) error

	hook    *pyhook.PythonCommHook
	bucket  *c10d.GradBucket
	buffers []*tensor.Tensor
}

func (c *hookCase) close() {
	c.hook.Close()
	c.bucket.Close()
	for _, b := range c.buffers {
		b.Close()
	}
}

// cases are those of a round.
func (w *worker) cases() ([]*hookCase, error) {
	var list []*hookCase
	add := func(times int, c *hookCase, err error) error {
		if err != nil {
			return err
		}
		c.times = times
		list = append(list, c)
		return nil
	}
	good := func(times int, name, hook string) error {
		c, err := w.good(name, hook, pyhook.HookConfig{}, 1024)
		return add(times, c, err)
	}
	bad := func(hook string, want error) error {
		c, err := w.bad(hook, want)
		return add(50, c, err)
	}
	err := errors.Join(
		good(1000, "noop", "noop"), good(20, "allreduce", "allreduce"),
		good(100, "another tensor", "hooks:doubled"), good(20, "a pending future", "hooks:pending"),
		bad("hooks:raises", c10d.ErrRaised), bad("hooks:short", c10d.ErrShort), bad("hooks:none", c10d.ErrNoneResult),
		bad("hooks:fails_later", c10d.ErrFutureFailed), bad("hooks:resizes", c10d.ErrShort),
	)
	if err != nil {
		return nil, err
	}
	dtypes, err := w.group.DTypes(context.Background())
	if err != nil {
		return nil, err
	}
	if why := dtypes["float16"]; why == "" {
		err = good(20, "fp16", "fp16")
	} else {
		w.say("fp16 is left out: %s", why)
	}
	moving, movingErr := w.moving()
	power, saved, powerErr := w.power()
	return list, errors.Join(err, add(50, moving, movingErr), add(5, power, powerErr), add(5, saved, powerErr))
}

// make makes a hook with a bucket of two gradients, of size elements in all.
func (w *worker) make(name, hook string, cfg pyhook.HookConfig, size int64) (*hookCase, error) {
	h, err := w.rt.NewHook(context.Background(), hook, cfg)
	if err != nil {
		return nil, err
	}
	buffer, err := tensor.New(tensor.Float32, size)
	if err != nil {
		return nil, err
	}
	half := size / 2
	b, err := c10d.NewGradBucket(c10d.BucketConfig{Index: 0, Count: 1, Buffer: buffer, Offsets: []int64{0, half},
		Lengths: []int64{half, half}, Sizes: [][]int64{{half / 16, 16}, {half / 16, 16}}})
	if err != nil {
		return nil, err
	}
	return &hookCase{name: name, hook: h, bucket: b, buffers: []*tensor.Tensor{buffer}}, nil
}

// good calls a hook and reads its result.
func (w *worker) good(name, hook string, cfg pyhook.HookConfig, size int64) (*hookCase, error) {
	c, err := w.make(name, hook, cfg, size)
	if err == nil {
		c.call = c.reduce
	}
	return c, err
}

func (c *hookCase) reduce(ctx context.Context) error {
	future, err := c.hook.RunHook(ctx, c.bucket)
	if err != nil {
		return err
	}
	defer future.Close()
	value, err := future.Wait(ctx)
	if err != nil {
		return err
	}
	result, err := c.hook.ParseHookResult(c.bucket, value)
	if err != nil {
		return err
	}
	defer result.Close()
	if result.Len() != c.bucket.Buffer().Len() {
		return fmt.Errorf("a result of %d elements", result.Len())
	}
	return nil
}

// bad calls a hook that must fail in one way.
func (w *worker) bad(hook string, want error) (*hookCase, error) {
	c, err := w.make(hook, hook, pyhook.HookConfig{}, 64)
	if err != nil {
		return nil, err
	}
	c.call = func(ctx context.Context) error {
		if err := c.reduce(ctx); !errors.Is(err, want) {
			return fmt.Errorf("it gave %v, and not: %w", err, want)
		}
		return nil
	}
	return c, nil
}

// moving gives its bucket another buffer before each call.
func (w *worker) moving() (*hookCase, error) {
	c, err := w.make("SetBuffer", "hooks:doubled", pyhook.HookConfig{}, 1024)
	if err != nil {
		return nil, err
	}
	other, err := tensor.New(tensor.Float32, 1024)
	if err != nil {
		return nil, err
	}
	c.buffers = append(c.buffers, other)
	n := 0
	c.call = func(ctx context.Context) error {
		n++
		if err := c.bucket.SetBuffer(c.buffers[n%2]); err != nil {
			return err
		}
		return c.reduce(ctx)
	}
	return c, nil
}

// power is PowerSGD, and the saving and loading of its state.
func (w *worker) power() (power, saved *hookCase, err error) {
	state, err := w.rt.NewState(context.Background(), "powersgd", map[string]any{"matrix_approximation_rank": 1, "start_powerSGD_iter": 2}, w.group)
	if err != nil {
		return nil, nil, err
	}
	defer state.Close()
	if power, err = w.good("powersgd", "powersgd", pyhook.HookConfig{State: state}, 1024); err != nil {
		return nil, nil, err
	}
	saved = &hookCase{name: "saving and loading PowerSGD's state", call: func(context.Context) error {
		var file bytes.Buffer
		if err := power.hook.SaveState(context.Background(), &file); err != nil {
			return err
		}
		return power.hook.LoadState(context.Background(), &file)
	}}
	return power, saved, nil
}
