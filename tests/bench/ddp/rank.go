package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	"pyhook/c10d"
	"pyhook/c10d/hooks"
	"pyhook/ddp"
	"pyhook/launch"
	"pyhook/pyhook"
	"pyhook/tensor"
)

// beRank is what each rank does.
func beRank(ctx context.Context, j *job) error {
	if err := launch.DieWithParent(); err != nil {
		return err
	}
	rt, err := pyhook.Start(ctx, pyhook.Config{Python: j.Python, Path: append(j.Path, j.Peer)})
	if err != nil {
		return err
	}
	defer rt.Close()
	backend, err := backendFor(ctx, rt, j.Device)
	if err != nil {
		return err
	}
	group, err := rt.InitProcessGroup(ctx, pyhook.GroupConfig{Backend: backend})
	if err != nil {
		return err
	}
	r := &rank{rt: rt, group: group, steps: j.Steps}
	if r.stock, err = rt.Import(ctx, "stock"); err != nil {
		return err
	}
	if err := r.makeSources(); err != nil {
		return err
	}
	if j.Device != "" {
		if r.device, err = r.newOnDevice(j.Device); err != nil {
			return err
		}
	}
	dtypes, err := group.DTypes(ctx)
	if err != nil {
		return err
	}
	var rows []row
	for _, c := range j.Cases {
		if why := dtypes["float16"]; why != "" && strings.Contains(c.Hook, "fp16") {
			r.say("%-20s left out: this gloo does not reduce float16", c.name())
			continue
		}
		r.say("%-20s %s", c.name(), time.Now().Format(time.TimeOnly))
		row, err := r.measure(ctx, c)
		if err != nil {
			return fmt.Errorf("%s: %w", c.name(), err)
		}
		rows = append(rows, row)
	}
	if group.Rank() != 0 {
		return nil
	}
	data, err := json.Marshal(rows)
	if err != nil {
		return err
	}
	return os.WriteFile(j.Rows, data, 0o644)
}

// rank is one rank, and the gradients that both sides take.
type rank struct {
	rt      *pyhook.Runtime
	group   *pyhook.TorchGroup
	steps   int
	sources []*tensor.Tensor
	stock   *pyhook.Object // stock.py
	device  *onDevice      // nil: the gradients are on the CPU
}

func (r *rank) say(format string, args ...any) {
	if r.group.Rank() == 0 {
		fmt.Fprintf(os.Stderr, format+"\n", args...)
	}
}

// makeSources fills the gradients with values that differ between ranks, and
// that half precision rounds.
func (r *rank) makeSources() error {
	for i, shape := range resnet50() {
		t, err := tensor.New(tensor.Float32, shape...)
		if err != nil {
			return err
		}
		values, err := tensor.Slice[float32](t)
		if err != nil {
			return err
		}
		for k := range values {
			values[k] = float32((k*7919+i*104729+r.group.Rank()*31337)%20011)*1e-4 - 1
		}
		r.sources = append(r.sources, t)
	}
	return nil
}

// measure lets the two sides take steps in turns: which is first alternates.
func (r *rank) measure(ctx context.Context, c benchCase) (row, error) {
	ours, err := r.newReducerSide(ctx, c)
	if err != nil {
		return row{}, err
	}
	defer ours.close()
	stock, err := r.newStockSide(c)
	if err != nil {
		return row{}, err
	}
	defer stock.close()
	// The first steps make buckets anew, and touch all memory.
	const warmUp = 3
	var goNS, stockNS []int64
	for step := range warmUp + r.steps {
		sides := []side{ours, stock}
		if step%2 == 1 {
			sides[0], sides[1] = stock, ours
		}
		for _, s := range sides {
			ns, err := r.timed(ctx, s)
			if err != nil {
				return row{}, err
			}
			if step < warmUp {
				continue
			}
			if s == side(ours) {
				goNS = append(goNS, ns)
			} else {
				stockNS = append(stockNS, ns)
			}
		}
		if step < warmUp {
			if err := stock.compare(ours); err != nil {
				return row{}, err
			}
		}
	}
	return r.newRow(c, ours.reducer.Order(), goNS, stockNS), nil
}

// A side takes one step: all gradients made, reduced, and at their place.
type side interface {
	prepare() error
	step(ctx context.Context) error
}

// timed is the time from when all ranks are ready to when all are done, on the device too.
func (r *rank) timed(ctx context.Context, s side) (int64, error) {
	if err := s.prepare(); err != nil {
		return 0, err
	}
	if err := r.device.synchronize(); err != nil {
		return 0, err
	}
	if err := r.group.Barrier(ctx); err != nil {
		return 0, err
	}
	start := time.Now()
	if err := s.step(ctx); err != nil {
		return 0, err
	}
	if err := r.device.synchronize(); err != nil {
		return 0, err
	}
	if err := r.group.Barrier(ctx); err != nil {
		return 0, err
	}
	return time.Since(start).Nanoseconds(), nil
}

// reducerSide is package ddp.
type reducerSide struct {
	sources []*tensor.Tensor
	device  *onDevice
	layers  []layers
	grads   []*tensor.Tensor // mode copy: the trainer's own
	params  []*c10d.Parameter
	reducer *ddp.Reducer
	closers []func()
}

func (r *rank) newReducerSide(ctx context.Context, c benchCase) (_ *reducerSide, err error) {
	s := &reducerSide{sources: r.sources, device: r.device}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	var hook c10d.CommHook
	switch c.Hook {
	case "none":
	case "go:allreduce":
		hook = &hooks.AllReduceCommHook{Group: r.group}
	case "go:fp16":
		hook = &hooks.FP16CompressCommHook{Group: r.group}
	default:
		h, err := r.rt.NewHook(ctx, c.Hook, pyhook.HookConfig{})
		if err != nil {
			return nil, err
		}
		s.closers = append(s.closers, h.Close)
		hook = h
	}
	for i, shape := range resnet50() {
		p := &c10d.Parameter{Name: fmt.Sprint("p", i), Shape: shape, DType: tensor.Float32, Device: r.sources[i].Device()}
		s.params = append(s.params, p)
		s.closers = append(s.closers, p.Close)
		if !c.View {
			grad, err := r.newGradient(i)
			if err != nil {
				return nil, err
			}
			s.grads = append(s.grads, grad)
			s.closers = append(s.closers, grad.Close)
		}
	}
	if s.reducer, err = ddp.NewReducer(ctx, s.params, ddp.Options{Group: r.group, Hook: hook}); err != nil || s.device == nil {
		return s, err
	}
	return s, s.newLayers()
}

func (s *reducerSide) prepare() error { return nil }

// step makes the gradients, last one first, by a product as torch.dot's
// backward does, and reduces them.
func (s *reducerSide) step(ctx context.Context) error {
	if s.device != nil {
		return s.deviceStep(ctx)
	}
	for i := len(s.sources) - 1; i >= 0; i-- {
		if err := s.backward(i); err != nil {
			return err
		}
	}
	_, err := s.reducer.Wait(ctx)
	return err
}

func (s *reducerSide) backward(i int) error {
	if s.grads == nil {
		if err := tensor.Scale(s.reducer.Gradient(i), s.sources[i], 1); err != nil {
			return err
		}
		return s.reducer.Ready(i)
	}
	if err := tensor.Scale(s.grads[i], s.sources[i], 1); err != nil {
		return err
	}
	return s.reducer.ReadyFrom(i, s.grads[i])
}

func (s *reducerSide) gradients() []any {
	all := make([]any, len(s.sources))
	for i := range all {
		if all[i] = s.reducer.Gradient(i); s.grads != nil {
			all[i] = s.grads[i]
		}
	}
	return all
}

func (s *reducerSide) close() {
	if s.reducer != nil {
		s.reducer.Close()
	}
	for _, f := range s.closers {
		f()
	}
}

// stockSide is stock.py's Stock.
type stockSide struct{ object *pyhook.Object }

func (r *rank) newStockSide(c benchCase) (*stockSide, error) {
	grads := make([]any, len(r.sources))
	for i, t := range r.sources {
		grads[i] = t
	}
	object, err := r.stock.Call("Stock", grads, strings.TrimPrefix(c.Hook, "go:"), c.View)
	return &stockSide{object}, err
}

func (s *stockSide) prepare() error                 { return s.call("forward") }
func (s *stockSide) step(ctx context.Context) error { return s.call("backward") }
func (s *stockSide) close()                         { s.object.Close() }

func (s *stockSide) call(method string) error {
	none, err := s.object.Call(method)
	none.Close()
	return err
}

// compare makes sure that both sides do the same work.
func (s *stockSide) compare(ours *reducerSide) error {
	differing, err := s.object.CallValue("differing", ours.gradients())
	if err != nil {
		return err
	}
	if list := differing.([]any); len(list) > 0 {
		return fmt.Errorf("the gradients of %d parameters are not those of stock DDP: %v", len(list), list)
	}
	return nil
}
