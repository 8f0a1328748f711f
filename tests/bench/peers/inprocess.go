package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"pyhook/c10d"
	"pyhook/pyhook"
	"pyhook/tensor"
	"pyhook/tests/bench/peers/side"
	"pyhook/worker"
)

// hookBench is a case of pyhook's own: its calls are those of package ddp.
type hookBench struct {
	ctx     context.Context
	hook    c10d.CommHook
	run     func(f func()) error // nil: on any thread
	buffers []*tensor.Tensor
	buckets []*c10d.GradBucket
	moved   bool // a result was not in the bucket's memory
	closers []func()
}

// open makes the buckets, for a hook that is closed with them.
func (b *hookBench) open(c side.Case, allocate func(elements int64) (*tensor.Tensor, error)) (_ side.Bench, err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, b.Close())
		}
	}()
	elements := int64(c.Bytes / 4)
	for range c.Callers {
		buffer, err := allocate(elements)
		if err != nil {
			return nil, err
		}
		b.closers = append(b.closers, buffer.Close)
		bucket, err := c10d.NewGradBucket(c10d.BucketConfig{Count: 1, Buffer: buffer,
			Offsets: []int64{0}, Lengths: []int64{elements}, Sizes: [][]int64{{elements}}})
		if err != nil {
			return nil, err
		}
		b.closers = append(b.closers, bucket.Close)
		b.buffers, b.buckets = append(b.buffers, buffer), append(b.buckets, bucket)
	}
	if b.run != nil {
		return threaded{b}, nil
	}
	return b, nil
}

func (b *hookBench) Bucket(caller int) []float32 {
	values, err := tensor.Slice[float32](b.buffers[caller])
	if err != nil {
		panic(err) // a buffer of float32 has them
	}
	return values
}

func (b *hookBench) Call(caller int) error {
	future, err := b.hook.RunHook(b.ctx, b.buckets[caller])
	if err != nil {
		return err
	}
	defer future.Close()
	value, err := future.Wait(b.ctx)
	if err != nil {
		return err
	}
	result, err := b.hook.ParseHookResult(b.buckets[caller], value)
	if err != nil {
		return err
	}
	defer result.Close()
	if result.Data() == b.buffers[caller].Data() {
		return nil
	}
	b.moved = true
	return tensor.Copy(b.buffers[caller], result)
}

func (b *hookBench) Copied() (int64, bool) {
	if !b.moved {
		return 0, false
	}
	return 4 * b.buffers[0].Len(), false
}

func (b *hookBench) Close() error {
	for _, f := range slices.Backward(b.closers) {
		f()
	}
	return nil
}

// threaded is a hookBench whose one caller has Python's main thread, as in package ddp.
type threaded struct{ *hookBench }

func (t threaded) Run(f func()) error { return t.run(f) }

// inProcess is pyhook in the trainer's process.
func inProcess(ctx context.Context, rank int) error {
	rt, err := pyhook.Start(ctx, pyhook.Config{Python: os.Getenv(pythonVariable), Path: []string{pythonFolder}})
	if err != nil {
		return err
	}
	defer rt.Close()
	store, err := os.MkdirTemp("", "peers")
	if err != nil {
		return err
	}
	defer os.RemoveAll(store)
	group := pyhook.GroupConfig{Backend: "gloo", InitMethod: "file://" + store + "/store", Size: 1}
	if shared := os.Getenv(storeVariable); shared != "" {
		group.InitMethod, group.Rank, group.Size = "file://"+shared, rank, 2
	}
	if _, err := rt.InitProcessGroup(ctx, group); err != nil {
		return err
	}
	return side.Serve(ctx, rank, func(ctx context.Context, c side.Case) (side.Bench, error) {
		hook, err := rt.NewHook(ctx, hookSpec(c), pyhook.HookConfig{})
		if err != nil {
			return nil, err
		}
		b := &hookBench{ctx: ctx, hook: hook, closers: []func(){hook.Close},
			run: func(f func()) error { return rt.RunOnMain(ctx, f) }}
		return b.open(c, func(elements int64) (*tensor.Tensor, error) { return tensor.New(tensor.Float32, elements) })
	})
}

// inWorker is pyhook's worker.
func inWorker(ctx context.Context) error {
	folder, err := os.MkdirTemp("", "peers")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	w, err := worker.Start(ctx, worker.Config{Python: os.Getenv(pythonVariable), Path: []string{pythonFolder},
		Size: 1, InitMethod: "file://" + folder + "/store"})
	if err != nil {
		return err
	}
	defer w.Close()
	return side.Serve(ctx, 0, func(ctx context.Context, c side.Case) (side.Bench, error) {
		hook, err := w.NewHook(ctx, hookSpec(c), worker.HookConfig{})
		if err != nil {
			return nil, err
		}
		b := &hookBench{ctx: ctx, hook: hook, closers: []func(){hook.Close}}
		return b.open(c, func(elements int64) (*tensor.Tensor, error) { return w.NewBuffer(tensor.Float32, elements) })
	})
}

// hookSpec is PyTorch's own all-reduce hook, or one of hooks.py.
func hookSpec(c side.Case) string {
	if c.Hook == "allreduce" {
		return c.Hook
	}
	return fmt.Sprintf("%s/hooks.py:%s", pythonFolder, c.Hook)
}
