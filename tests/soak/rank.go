package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"pyhook/c10d"
	"pyhook/launch"
	"pyhook/pyhook"
	"pyhook/tensor"
)

//go:embed hooks.py
var hooksSource string

// worker is one rank.
type worker struct {
	rt    *pyhook.Runtime
	group *pyhook.TorchGroup
	gc    *pyhook.Object // Python's module
	trim  *pyhook.Object // the C library's malloc_trim
	start time.Time
	calls int64
	lines bool
	taken []sample
}

// beRank is what each rank does.
func beRank(ctx context.Context, j *job) error {
	if err := launch.DieWithParent(); err != nil {
		return err
	}
	rt, err := pyhook.Start(ctx, pyhook.Config{Path: []string{j.Dir}})
	if err != nil {
		return err
	}
	defer rt.Close()
	group, err := rt.InitProcessGroup(ctx, pyhook.GroupConfig{Backend: "gloo"})
	if err != nil {
		return err
	}
	w := &worker{rt: rt, group: group, start: time.Now(), lines: group.Rank() == 0 && !j.JSON}
	if err := w.prepare(); err != nil {
		return err
	}
	info := rt.Info()
	r := report{Rank: group.Rank(), Python: info.Version, Torch: info.Torch}
	w.say("%d ranks, torch %s on Python %s\n%s", group.Size(), info.Torch, info.Version, header)
	if r.Noop, err = w.noops(ctx, j.Noops); err != nil {
		return fmt.Errorf("the noop hook: %w", err)
	}
	if r.Mixed, err = w.rounds(ctx, time.Duration(j.Minutes*float64(time.Minute)), j.Every); err != nil {
		return err
	}
	r.Samples = w.taken
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return os.WriteFile(j.reportFile(r.Rank), data, 0o600)
}

func (w *worker) say(format string, args ...any) {
	if w.lines {
		fmt.Printf(format+"\n", args...)
	}
}

// prepare finds what take needs.
func (w *worker) prepare() error {
	var err error
	if w.gc, err = w.rt.Import(context.Background(), "gc"); err != nil {
		return err
	}
	ctypes, err := w.rt.Import(context.Background(), "ctypes")
	if err != nil {
		return err
	}
	defer ctypes.Close()
	library, err := ctypes.Call("CDLL", nil)
	if err != nil {
		return err
	}
	defer library.Close()
	w.trim, err = library.Attr("malloc_trim")
	return err
}

func (w *worker) python(module, function string) (any, error) {
	m, err := w.rt.Import(context.Background(), module)
	if err != nil {
		return nil, err
	}
	defer m.Close()
	return m.CallValue(function)
}

// sampled takes a sample, keeps it and prints its line.
func (w *worker) sampled() (sample, error) {
	s, err := w.take()
	if err != nil {
		return s, fmt.Errorf("rank %d: counting what is there: %w", w.group.Rank(), err)
	}
	w.taken = append(w.taken, s)
	w.say("%s", s)
	return s, nil
}

// noops calls the noop hook n times, after a fifth as often to get warm.
func (w *worker) noops(ctx context.Context, n int) (*verdict, error) {
	c, err := w.good("noop", "noop", pyhook.HookConfig{}, 1024)
	if err != nil {
		return nil, err
	}
	defer c.close()
	call := func(n int) (sample, error) {
		for range n {
			if err := c.call(ctx); err != nil {
				return sample{}, err
			}
			w.calls++
		}
		return w.sampled()
	}
	warm, err := call(max(n/5, 1))
	if err != nil {
		return nil, err
	}
	last, err := call(n)
	if err != nil {
		return nil, err
	}
	return w.judge(warm, last)
}

// judge judges, and looks again where something is left: the thread that completed
// a future may still be letting go of it.
func (w *worker) judge(warm, last sample) (*verdict, error) {
	v := judge(warm, last)
	for range 20 {
		if v.Sound() {
			break
		}
		time.Sleep(100 * time.Millisecond)
		again, err := w.take()
		if err != nil {
			return nil, err
		}
		if next := judge(warm, again); len(next.Left) <= len(v.Left) && next.Grown <= v.Grown {
			v = next
		}
	}
	return v, nil
}

// rounds calls all hooks in turn until the time is over, on all ranks as often.
func (w *worker) rounds(ctx context.Context, length, every time.Duration) (*verdict, error) {
	cases, err := w.cases()
	if err != nil {
		return nil, err
	}
	over, err := tensor.New(tensor.Float32, 1)
	if err != nil {
		return nil, err
	}
	start := time.Now()
	next := start
	var warm *sample
	for {
		for _, c := range cases {
			for range c.times {
				if err := c.call(ctx); err != nil {
					return nil, fmt.Errorf("%s: %w", c.name, err)
				}
			}
			w.calls += int64(c.times)
		}
		stop, err := w.agree(ctx, over, time.Since(start) > length)
		if err != nil {
			return nil, err
		}
		warmNow := warm == nil && time.Since(start) > length/5
		if !stop && !warmNow && time.Now().Before(next) {
			continue
		}
		next = time.Now().Add(every)
		s, err := w.sampled()
		if err != nil {
			return nil, err
		}
		switch {
		case stop && warm == nil:
			return nil, fmt.Errorf("one round took longer than the %s that there were", length)
		case stop:
			return w.judge(*warm, s)
		case warmNow:
			warm = &s
		}
	}
}

// agree is whether rank 0's time is over, on all ranks.
func (w *worker) agree(ctx context.Context, over *tensor.Tensor, mine bool) (bool, error) {
	values, err := tensor.Slice[float32](over)
	if err != nil {
		return false, err
	}
	values[0] = 0
	if mine && w.group.Rank() == 0 {
		values[0] = 1
	}
	future, err := w.group.AllReduce(ctx, over, c10d.Max)
	if err != nil {
		return false, err
	}
	defer future.Close()
	_, err = future.Wait(ctx)
	return values[0] > 0, err
}
