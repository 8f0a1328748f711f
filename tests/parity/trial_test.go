package parity

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"pyhook/c10d"
	"pyhook/pyhook"
	"pyhook/tensor"
)

// trial is one case on one rank, in Go.
type trial struct {
	rt    *pyhook.Runtime
	group *pyhook.TorchGroup
	c     hookCase
	work  job
	rank  int

	hook    c10d.CommHook
	params  []*c10d.Parameter
	buckets []*c10d.GradBucket
	views   []*tensor.Tensor // by parameter: its gradient in the bucket
	grads   []*tensor.Tensor // by parameter: the reduced gradient
	release []func()
}

// outcome is what became of a trial, for the test to judge.
type outcome struct {
	Stage  string `json:"stage"` // of the error: make, step N
	Steps  int    `json:"steps"` // done, and dumped
	Error  string `json:"error"`
	Typed  bool   `json:"typed"`  // a *c10d.Error
	Code   string `json:"code"`   // the c10d.Error's, and what it is besides, in words
	Leaked int64  `json:"leaked"` // Go tensors still open after everything was closed
}

// run joins a group of the case's own, as the oracle does: what a failing case
// leaves in a group cannot reach the next one. Its error is about the group: the
// ranks have lost each other, and no later case can run.
func (t *trial) run(ctx context.Context) (result outcome, err error) {
	if err := t.join(ctx); err != nil {
		return result, fmt.Errorf("case %s: %w", t.work.Name, err)
	}
	open := tensor.LiveTensors()
	result.Stage = "make"
	failed := t.perform(ctx, &result)
	t.close()
	for range 100 { // a callback may still be letting go of its tensors
		if result.Leaked = tensor.LiveTensors() - open; result.Leaked <= 0 {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	if failed == nil {
		result.Stage = ""
		return result, nil
	}
	result.Error = failed.Error()
	var hook *c10d.Error
	if result.Typed = errors.As(failed, &hook); result.Typed {
		result.Code = hook.Code.Error()
		for _, code := range hook.Also {
			result.Code += ": " + code.Error()
		}
	}
	return result, nil
}

func (t *trial) join(ctx context.Context) (err error) {
	t.group, err = t.rt.InitProcessGroup(ctx, pyhook.GroupConfig{
		Backend: "gloo", InitMethod: "file://" + filepath.Join(t.work.Out, "store"), Rank: t.rank, Size: t.c.World, Timeout: time.Minute,
	})
	if err == nil {
		keepGroup(t.group)
		t.release = append(t.release, t.leaveGroup)
	}
	return err
}

func (t *trial) perform(ctx context.Context, result *outcome) error {
	if t.c.needsDDP() {
		return t.askDDPHook()
	}
	if err := t.makeParameters(); err != nil {
		return err
	}
	if err := t.makeBuckets(); err != nil {
		return err
	}
	if err := t.makeHook(); err != nil {
		return err
	}
	for step := range t.c.Steps {
		result.Stage = fmt.Sprintf("step %d", step)
		if err := t.step(ctx, step); err != nil {
			return err
		}
		result.Steps++
	}
	return t.group.Barrier(ctx) // nobody leaves while another rank reads from its socket
}

func (t *trial) close() {
	for i := len(t.release) - 1; i >= 0; i-- {
		t.release[i]()
	}
}

// keptGroups are never let go of. The last reference to a group may be a hook's
// closure, which goes away on one of the group's own threads; gloo's destructor
// would wait there for the thread itself, and std::terminate ends the process.
var keptGroups []*pyhook.Object

func keepGroup(group *pyhook.TorchGroup) {
	if kept, err := group.Object().Clone(); err == nil {
		keptGroups = append(keptGroups, kept)
	}
}

func (t *trial) leaveGroup() {
	t.group.Close()
	dist, err := t.rt.Import(context.Background(), "torch.distributed")
	if err != nil {
		return
	}
	defer dist.Close()
	_, _ = dist.CallValue("destroy_process_group")
}

// makeParameters puts the values into Go's memory: hooks that update weights
// write there.
func (t *trial) makeParameters() error {
	values, err := os.ReadFile(filepath.Join(t.work.Inputs, "initial.bin"))
	if err != nil {
		return err
	}
	for _, p := range t.c.Params {
		dtype, err := tensor.ParseDType(p.DType)
		if err != nil {
			return err
		}
		data, err := t.tensor(dtype, p.Shape...)
		if err != nil {
			return err
		}
		if values, err = fill(data, values); err != nil {
			return err
		}
		param := &c10d.Parameter{Name: p.Name, Shape: p.Shape, DType: dtype, Data: data}
		t.release = append(t.release, param.Close)
		t.params = append(t.params, param)
	}
	return nil
}

func (t *trial) tensor(dtype tensor.DType, shape ...int64) (*tensor.Tensor, error) {
	tensor, err := tensor.New(dtype, shape...)
	if err == nil {
		t.release = append(t.release, tensor.Close)
	}
	return tensor, err
}

// fill takes a tensor's bytes off the front of data.
func fill(t *tensor.Tensor, data []byte) (rest []byte, err error) {
	raw, err := tensor.RawBytes(t)
	if err != nil {
		return nil, err
	}
	if len(data) < len(raw) {
		return nil, fmt.Errorf("%d bytes where %s needs %d", len(data), t, len(raw))
	}
	return data[copy(raw, data):], nil
}

func dump(path string, tensors []*tensor.Tensor) error {
	var all []byte
	for _, t := range tensors {
		raw, err := tensor.RawBytes(t)
		if err != nil {
			return err
		}
		all = append(all, raw...)
	}
	return os.WriteFile(path, all, 0o600)
}

// makeBuckets makes exactly the case's layout. Complex gradients lie in a real
// buffer of twice the length, as in PyTorch from 2.14 on, or in a complex one
// where the job asks for that.
func (t *trial) makeBuckets() error {
	t.views, t.grads = make([]*tensor.Tensor, len(t.params)), make([]*tensor.Tensor, len(t.params))
	for index, members := range t.c.Buckets {
		cfg, err := t.layout(index, members)
		if err != nil {
			return err
		}
		bucket, err := c10d.NewGradBucket(cfg)
		if err != nil {
			return err
		}
		t.release = append(t.release, bucket.Close)
		t.buckets = append(t.buckets, bucket)
		views, err := bucket.Gradients()
		if err != nil {
			return err
		}
		for i, m := range members {
			t.views[m] = views[i]
			t.release = append(t.release, views[i].Close)
			if t.grads[m], err = t.tensor(cfg.Buffer.DType(), cfg.Sizes[i]...); err != nil {
				return err
			}
		}
	}
	return nil
}

func (t *trial) layout(index int, members []int) (cfg c10d.BucketConfig, err error) {
	cfg = c10d.BucketConfig{Index: index, Count: len(t.c.Buckets)}
	dtype := t.params[members[0]].DType
	asReal := t.c.complex() && !t.work.ComplexBuckets
	total := int64(0)
	for _, m := range members {
		size, n := t.c.Params[m].Shape, t.c.Params[m].len()
		if asReal {
			size, n = append(slices.Clone(size), 2), 2*n
		} else {
			cfg.Parameters = append(cfg.Parameters, t.params[m])
		}
		cfg.Offsets, cfg.Lengths, cfg.Sizes = append(cfg.Offsets, total), append(cfg.Lengths, n), append(cfg.Sizes, size)
		total += n
	}
	if asReal {
		dtype = realOf(dtype)
	}
	cfg.Buffer, err = t.tensor(dtype, total)
	return cfg, err
}

func realOf(d tensor.DType) tensor.DType {
	if d == tensor.Complex128 {
		return tensor.Float64
	}
	return tensor.Float32
}

// step reduces one step's gradients and dumps what came of it.
func (t *trial) step(ctx context.Context, step int) error {
	suffix := fmt.Sprintf("rank%d.step%d.bin", t.rank, step)
	data, err := os.ReadFile(filepath.Join(t.work.Inputs, "in."+suffix))
	if err != nil {
		return err
	}
	for _, view := range t.views {
		if data, err = fill(view, data); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 90*time.Second)
	defer cancel()
	if err := t.reduce(ctx); err != nil {
		return err
	}
	if err := dump(filepath.Join(t.work.Out, "out."+suffix), t.grads); err != nil {
		return err
	}
	if t.c.Mode != "optimizer" {
		return nil
	}
	values := make([]*tensor.Tensor, len(t.params))
	for i, p := range t.params {
		values[i] = p.Data
	}
	return dump(filepath.Join(t.work.Out, "params."+suffix), values)
}

// reduce calls the hook for every bucket, then waits for all of them, also
// after an error: the ranks leave the step together.
func (t *trial) reduce(ctx context.Context) error {
	futures := make([]*c10d.Future[c10d.Result], len(t.buckets))
	var failed error
	note := func(err error) {
		if failed == nil {
			failed = err
		}
	}
	for i, bucket := range t.buckets {
		future, err := t.hook.RunHook(ctx, bucket)
		if err != nil {
			note(err)
			break // torch's Reducer stops here too
		}
		futures[i] = future
		if t.c.Serial {
			_, err = future.Wait(ctx)
			note(err)
		}
	}
	for i, future := range futures {
		if future == nil {
			break
		}
		value, err := future.Wait(ctx)
		if err == nil && failed == nil {
			err = t.take(i, value)
		}
		note(err)
		future.Close()
	}
	return failed
}

// take copies a reduced bucket to its gradients, in their dtype.
func (t *trial) take(index int, value c10d.Result) error {
	flat, err := t.hook.ParseHookResult(t.buckets[index], value)
	if err != nil {
		return err
	}
	defer flat.Close()
	bucket := t.buckets[index]
	for i, m := range t.c.Buckets[index] {
		part, err := flat.View(bucket.Offsets()[i], bucket.Sizes()[i], nil)
		if err != nil {
			return err
		}
		err = tensor.Copy(t.grads[m], part)
		part.Close()
		if err != nil {
			return err
		}
	}
	return nil
}
