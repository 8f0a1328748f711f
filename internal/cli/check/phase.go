package check

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"pyhook/c10d"
	"pyhook/ddp"
	"pyhook/pyhook"
	"pyhook/tensor"
)

// phase is all steps of the plan in one order of buckets, with a hook, a state
// and parameters of its own.
type phase struct {
	run     *rankRun
	model   *checkModel
	hook    c10d.CommHook // the bare one
	drop    func()        // of hook and state
	calls   *calls
	reducer *ddp.Reducer

	layout [][]int // of the step that is under way
	step   int
	record phaseRecord
}

// phaseRecord is the result of a phase on one rank.
type phaseRecord struct {
	Order string         `json:"order"`
	Sent  []uint64       `json:"sent"`  // bytes, by step; none where they cannot be counted
	Calls [][]callRecord `json:"calls"` // by step, then the plan's buckets
	Nanos []int64        `json:"nanos"` // by step: from the first hook call to the last future
}

// newPhase makes the model, the hook, its state and the Reducer: a collective.
func (r *rankRun) newPhase(ctx context.Context, order ddp.Order) (_ *phase, err error) {
	p := &phase{run: r, drop: func() {}}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	if p.model, err = newCheckModel(r.plan); err != nil {
		return nil, err
	}
	if err = p.makeHook(ctx); err != nil {
		return nil, err
	}
	p.calls = &calls{run: r, judge: p.judge}
	// Without a vote: each rank shall say what it met itself, and the bytes are the hook's alone.
	opts := ddp.Options{Group: r.group, Order: order, Buckets: p.model.layout(), Agreement: ddp.AgreementNone}
	if python, ok := p.hook.(*pyhook.PythonCommHook); ok {
		p.calls.python = python
		opts.Hook = &pythonCalls{python, p.calls}
	} else {
		opts.Hook = &goCalls{p.hook, p.calls}
	}
	if r.plan.Rebuild {
		opts.Layout = ddp.LayoutRebuilt
	}
	if p.reducer, err = ddp.NewReducer(ctx, p.model.params, opts); err != nil {
		return nil, err
	}
	p.record.Order = p.reducer.Order().String()
	r.note(func(report *rankReport) {
		if r.phase == 0 {
			report.Order = p.record.Order
		}
	})
	return p, nil
}

// makeHook loads the hook and makes its state, with the random generators as they
// were for the first phase's.
func (p *phase) makeHook(ctx context.Context) error {
	r := p.run
	r.enter("loading the hook", startLimit)
	if err := r.random.before(r); err != nil {
		return err
	}
	hook, drop, err := r.plan.Make(ctx, r.rt, r.group, p.model.params)
	if err != nil {
		return err
	}
	p.hook, p.drop = hook, drop
	name, refused := strings.TrimPrefix(fmt.Sprintf("%T", hook), "*"), ""
	if python, ok := hook.(*pyhook.PythonCommHook); ok {
		name = python.Name()
		if refused, err = python.StockRefusal(); err != nil {
			refused = err.Error()
		}
	}
	r.note(func(report *rankReport) { report.HookName, report.StockRefuses = name, refused })
	return r.random.after(r)
}

// steps takes all steps.
func (p *phase) steps(ctx context.Context) error {
	for step := range p.run.plan.Steps {
		if err := p.oneStep(ctx, step); err != nil {
			return err
		}
	}
	return nil
}

func (p *phase) oneStep(ctx context.Context, step int) error {
	p.step, p.layout = step, p.reducer.Buckets()
	p.record.Calls = append(p.record.Calls, make([]callRecord, len(p.model.buckets)))
	p.calls.next(step)
	if err := p.fill(step); err != nil {
		return err
	}
	before, countErr := p.run.meter.SentBytes()
	p.run.enter(inHook, p.run.plan.Timeout)
	for _, b := range p.model.buckets {
		for _, i := range b.params {
			if err := p.reducer.Ready(i); err != nil {
				return err
			}
		}
	}
	timings, err := p.reducer.Wait(ctx)
	if err != nil {
		return p.failed(step, err)
	}
	if after, err := p.run.meter.SentBytes(); err == nil && countErr == nil {
		p.record.Sent = append(p.record.Sent, after-before)
	}
	p.record.Nanos = append(p.record.Nanos, p.calls.took().Nanoseconds())
	for i, timing := range timings {
		if b := p.planned(i); b >= 0 {
			p.record.Calls[step][b].Nanos = timing.Total.Nanoseconds()
		}
	}
	return nil
}

// fill writes the step's gradients where the Reducer has them now.
func (p *phase) fill(step int) error {
	for index, b := range p.model.buckets {
		fillGradients(b.values, p.run.plan.Seed, step, index, p.run.group.Rank())
		for k, i := range b.params {
			from, err := b.wide.View(b.offsets[k], p.model.params[i].Shape, nil)
			if err != nil {
				return err
			}
			err = tensor.Copy(p.reducer.Gradient(i), from)
			from.Close()
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// failed takes a hook's error out of the Reducer's, which says the same in words
// for trainers, and notes where it was.
func (p *phase) failed(step int, err error) error {
	var inStep *ddp.StepError
	if !errors.As(err, &inStep) {
		return err
	}
	p.run.at(step, inStep.Bucket)
	var hook *c10d.Error
	if err = inStep.Err; !errors.As(err, &hook) {
		err = fmt.Errorf("hook %s, rank %d, bucket %d: %w", p.run.plan.Hook, inStep.Rank, inStep.Bucket, err)
	}
	if p.run.plan.Rebuild && step == 1 {
		return &rebuiltError{err}
	}
	return err
}

// rebuiltError is of the first step with other buckets.
type rebuiltError struct{ error }

func (e *rebuiltError) Unwrap() error { return e.error }

const rebuiltHint = "this is the first step whose buckets are not those of the step before: as in DistributedDataParallel the first step has " +
	"one bucket, and then they are made anew.\nWhat the hook keeps by bucket.index() is of other parameters, and of another size, then: " +
	"keep it by parameter, or begin to keep it in the second step, as PowerSGD does.\n--rebuild=false leaves the buckets as they are, which DDP does not"

// planned is which bucket of the plan the Reducer's bucket is, or -1.
func (p *phase) planned(index int) int {
	if index < len(p.model.buckets) && slices.Equal(p.layout[index], p.model.buckets[index].params) {
		return index
	}
	if len(p.layout) == 1 && len(p.model.buckets) == 1 {
		return 0 // the same parameters, in another order
	}
	return -1
}

// close lets go of all but the goroutines that wait for futures.
func (p *phase) close() {
	if p.reducer != nil {
		p.reducer.Close()
	}
	p.drop()
	if p.model != nil {
		p.model.close()
	}
}
