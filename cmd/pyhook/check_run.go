package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"sync"
	"time"

	"pyhook/internal/wire"
	"pyhook/pyhook"
	"pyhook/tensorconv"
)

// startLimit bounds what comes before the hook: importing torch on a busy
// machine is slow.
const startLimit = 3 * time.Minute

// rankRun is one rank of a check. What it has found is read by watch, on
// another goroutine, when the hook hangs.
type rankRun struct {
	plan *checkPlan
	// progress is called at each hook call's begin and end.
	progress func(mark byte)

	rt      *pyhook.Runtime
	group   *pyhook.TorchGroup
	buckets []*checkBucket
	meter   wire.Meter

	hook      pyhook.CommHook
	closeHook func()

	mu       sync.Mutex
	report   rankReport
	step     int
	bucket   int
	doing    string
	deadline time.Time
}

// checkBucket is a bucket and the memory that its gradients are made in.
type checkBucket struct {
	*pyhook.GradBucket
	wide   *tensorconv.Tensor // float64
	values []float64          // wide's memory
}

func newRankRun(plan *checkPlan, rank, size int) *rankRun {
	r := &rankRun{plan: plan, progress: func(byte) {}, step: -1, bucket: -1}
	r.report = rankReport{Rank: rank, Size: size, Calls: [][]callRecord{}, Legacy: []string{}}
	return r
}

// enter says what the rank does from now on, and for how long it may.
func (r *rankRun) enter(doing string, limit time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.doing, r.deadline = doing, time.Now().Add(limit)
}

func (r *rankRun) at(step, bucket int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.step, r.bucket = step, bucket
}

// note writes to the report, which watch may be reading.
func (r *rankRun) note(f func(*rankReport)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f(&r.report)
}

// work does the whole check on this rank. The Runtime stays open.
func (r *rankRun) work(ctx context.Context, python string) error {
	r.enter("starting Python", startLimit)
	rt, err := pyhook.Start(ctx, pyhook.Config{Python: python, Path: r.plan.Path})
	if err != nil {
		return err
	}
	info := rt.Info()
	r.mu.Lock()
	r.rt, r.report.Python, r.report.Torch = rt, info.Version, info.Torch
	r.mu.Unlock()
	// The clock of hook calls is watch's; the group's own comes after it.
	r.enter("waiting for the other ranks to join", startLimit)
	r.group, err = rt.InitProcessGroup(ctx, pyhook.GroupConfig{Backend: r.plan.Backend, Timeout: max(r.plan.Timeout, startLimit) + time.Minute})
	if err != nil {
		return err
	}
	r.note(func(report *rankReport) { report.Backend = r.group.Backend() })
	// Rank 0 serves the store: were it to fail at once, the others could not
	// even join, and would blame that.
	if err := r.group.Barrier(ctx); err != nil {
		return err
	}
	if err := r.prepare(); err != nil {
		return err
	}
	for step := range r.plan.Steps {
		if err := r.runStep(ctx, step); err != nil {
			return err
		}
	}
	r.enter("waiting for the other ranks to finish", startLimit)
	return r.group.Barrier(ctx)
}

// prepare loads the hook and makes its state and the buckets.
func (r *rankRun) prepare() error {
	r.enter("loading the hook", startLimit)
	var params []*pyhook.Parameter
	for i, shapes := range r.plan.Buckets {
		b, err := newCheckBucket(r.plan, i, shapes)
		if err != nil {
			return err
		}
		r.buckets = append(r.buckets, b)
		params = append(params, b.Parameters()...)
	}
	var err error
	if r.hook, r.closeHook, err = r.plan.Make(r.rt, r.group, params); err != nil {
		return err
	}
	name := strings.TrimPrefix(fmt.Sprintf("%T", r.hook), "*")
	if python, ok := r.hook.(*pyhook.PythonCommHook); ok {
		name = python.Name()
	}
	_, bytesErr := r.meter.SentBytes()
	r.note(func(report *rankReport) {
		report.HookName = name
		if bytesErr != nil {
			report.NoBytes = bytesErr.Error()
		}
	})
	return nil
}

func newCheckBucket(p *checkPlan, index int, shapes [][]int64) (*checkBucket, error) {
	dtype, err := tensorconv.ParseDType(p.DType)
	if err != nil {
		return nil, err
	}
	elements := elementsOf(shapes)
	b := &checkBucket{}
	if b.wide, err = tensorconv.New(tensorconv.Float64, elements); err != nil {
		return nil, err
	}
	if b.values, err = tensorconv.Slice[float64](b.wide); err != nil {
		return nil, err
	}
	cfg := pyhook.BucketConfig{Index: index, Count: len(p.Buckets)}
	if cfg.Buffer, err = tensorconv.New(dtype, elements); err != nil {
		return nil, err
	}
	// Weights are the same on all ranks, as a model's are.
	weights, err := tensorconv.New(dtype, elements)
	if err != nil {
		return nil, err
	}
	fillGradients(b.values, p.Seed, -1, index, -1)
	if err := tensorconv.Copy(weights, b.wide); err != nil {
		return nil, err
	}
	offset := int64(0)
	for i, shape := range shapes {
		n := elementsOf([][]int64{shape})
		data, err := weights.View(offset, shape, nil)
		if err != nil {
			return nil, err
		}
		cfg.Offsets, cfg.Lengths, cfg.Sizes = append(cfg.Offsets, offset), append(cfg.Lengths, n), append(cfg.Sizes, shape)
		cfg.Parameters = append(cfg.Parameters, &pyhook.Parameter{
			Name: fmt.Sprintf("bucket%d.parameter%d", index, i), Shape: shape, DType: dtype, Data: data})
		offset += n
	}
	b.GradBucket, err = pyhook.NewGradBucket(cfg)
	return b, err
}

func (r *rankRun) runStep(ctx context.Context, step int) error {
	calls := make([]callRecord, len(r.buckets))
	for i, b := range r.buckets {
		fillGradients(b.values, r.plan.Seed, step, i, r.group.Rank())
		if err := tensorconv.Copy(b.Buffer(), b.wide); err != nil {
			return err
		}
		r.at(step, i)
		r.enter("in the hook", r.plan.Timeout)
		r.progress(begun)
		result, err := r.call(ctx, b, &calls[i])
		if err != nil {
			return err
		}
		r.enter("judging the result", startLimit)
		err = r.judge(step, i, result, &calls[i])
		result.Close()
		if err != nil {
			return err
		}
		r.progress(over)
	}
	r.note(func(report *rankReport) { report.Calls = append(report.Calls, calls) })
	return nil
}

// call runs the hook on b to the end: on gloo hooks such as PowerSGD must not
// overlap, since their callbacks issue collectives in whatever order.
func (r *rankRun) call(ctx context.Context, b *checkBucket, record *callRecord) (*tensorconv.Tensor, error) {
	before, bytesErr := r.meter.SentBytes()
	start := time.Now()
	future, err := r.hook.RunHook(ctx, b.GradBucket)
	if err != nil {
		return nil, err
	}
	defer future.Close()
	value, err := future.Wait(ctx)
	if err != nil {
		return nil, err
	}
	record.Nanos = time.Since(start).Nanoseconds()
	if after, err := r.meter.SentBytes(); err == nil && bytesErr == nil {
		record.Bytes = after - before
	}
	result, err := r.hook.ParseHookResult(value)
	if err != nil {
		return nil, err
	}
	record.OwnMemory = result.Data() == b.Buffer().Data()
	if python, ok := r.hook.(*pyhook.PythonCommHook); ok {
		names := python.LegacyNames(b.GradBucket)
		r.note(func(report *rankReport) { report.Legacy = append([]string{}, names...) })
	}
	return result, nil
}

// judge compares the result with the exact mean and takes its digest.
func (r *rankRun) judge(step, bucket int, result *tensorconv.Tensor, record *callRecord) error {
	b := r.buckets[bucket]
	if result.Len() != b.wide.Len() {
		return fmt.Errorf("%w: %d elements for a bucket of %d", pyhook.ErrShort, result.Len(), b.wide.Len())
	}
	plain, err := tensorconv.New(result.DType(), result.Len())
	if err != nil {
		return err
	}
	defer plain.Close()
	if err := tensorconv.Copy(plain, result); err != nil { // it may have strides
		return err
	}
	raw, err := tensorconv.RawBytes(plain)
	if err != nil {
		return err
	}
	sum := sha256.New()
	sum.Write([]byte(result.DType().String() + "\n"))
	sum.Write(raw)
	record.Digest, record.DType = hex.EncodeToString(sum.Sum(nil)), result.DType().String()
	if err := tensorconv.Copy(b.wide, plain); err != nil {
		return err
	}
	mean, err := exactMean(b.wide.Len(), b.Buffer().DType(), r.plan.Seed, step, bucket, r.group.Size())
	if err != nil {
		return err
	}
	record.Error, record.NonFinite = compare(b.values, mean)
	return nil
}

// close ends Python in good order.
func (r *rankRun) close() error {
	r.enter("ending Python", startLimit)
	r.closeHook()
	for _, b := range r.buckets {
		for _, p := range b.Parameters() {
			p.Close()
		}
		b.Close()
	}
	r.group.Close()
	return r.rt.Close()
}
