package check

import (
	"context"
	"slices"
	"sync"
	"time"

	"pyhook/internal/cli"
	"pyhook/internal/wire"
	"pyhook/pyhook"
)

// startLimit bounds what comes before the hook: importing torch on a busy
// machine is slow.
const startLimit = 3 * time.Minute

// rankRun is one rank of a check. What it has found is read by supervise, on
// another goroutine, when the hook hangs.
type rankRun struct {
	plan *checkPlan
	// progress is called for each hook call.
	progress func(mark)
	// judged is called when the phase that is judged is over: what comes after it
	// may break the group, and take this process along.
	judged func(context.Context) error

	rt     *pyhook.Runtime
	group  *pyhook.TorchGroup
	meter  wire.Meter
	random randomStates
	closes []func() // of what stays open until the end

	mu       sync.Mutex
	report   rankReport
	phase    int // 0: the one that is judged, see work
	step     int
	bucket   int
	open     openCalls
	doing    string
	limit    time.Duration
	deadline time.Time
}

func newRankRun(plan *checkPlan, rank, size int) *rankRun {
	r := &rankRun{plan: plan, progress: func(mark) {}, judged: func(context.Context) error { return nil }, step: -1, bucket: -1}
	r.report = rankReport{Rank: rank, Size: size, phaseRecord: phaseRecord{Calls: [][]callRecord{}}, Legacy: []string{}}
	return r
}

// inHook is what the rank does from the first hook call of a step on.
const inHook = "in the hook"

// enter says what the rank does from now on, and for how long it may.
func (r *rankRun) enter(doing string, limit time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.doing, r.limit, r.deadline = doing, limit, time.Now().Add(limit)
}

func (r *rankRun) at(step, bucket int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.step, r.bucket = step, bucket
}

// mark notes that a hook call began, returned or is over: each gives the next one
// the whole of --timeout.
func (r *rankRun) mark(what byte, step, bucket int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	m := mark{what, r.phase, step, bucket}
	r.open.add(m)
	r.progress(m)
	if r.doing == inHook {
		r.deadline = time.Now().Add(r.limit)
	}
	if first, ok := r.open.first(); ok {
		r.step, r.bucket = first.step, first.bucket
	}
}

// note writes to the report, which supervise may be reading.
func (r *rankRun) note(f func(*rankReport)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f(&r.report)
}

// used notes old names that the hook uses.
func (r *rankRun) used(names []string) {
	r.note(func(report *rankReport) {
		for _, name := range names {
			if !slices.Contains(report.Legacy, name) {
				report.Legacy = append(report.Legacy, name)
			}
		}
	})
}

// work does the whole check on this rank: first all steps in the order that is
// judged, then in another one, whose results are compared (order.go). The
// Runtime stays open.
func (r *rankRun) work(ctx context.Context, python string) error {
	if r.group == nil { // else Python runs, and the ranks have joined
		if err := r.begin(ctx, python); err != nil {
			return err
		}
	}
	judged, err := r.runPhase(ctx, 0, r.plan.Order)
	if err != nil {
		return err
	}
	other, compares := otherOrder(judged)
	r.note(func(report *rankReport) {
		report.phaseRecord = judged.record
		if compares {
			report.Compared = &comparison{phaseRecord: phaseRecord{Order: other.String()}, Running: true}
		}
	})
	if err := r.judged(ctx); err != nil {
		return err
	}
	if compares {
		if err := r.compareOrders(ctx, judged, other); err != nil {
			return err
		}
		r.note(func(report *rankReport) { report.Compared.Running = false })
	}
	r.enter("waiting for the other ranks to finish", startLimit)
	return r.group.Barrier(ctx)
}

// python calls a function of python/pyhook/_runtime/check.py.
func (r *rankRun) python(name string, args ...any) (*pyhook.Object, error) {
	judge, err := r.rt.Import(context.Background(), "pyhook._runtime.check")
	if err != nil {
		return nil, err
	}
	defer judge.Close()
	return judge.Call(name, args...)
}

// begin starts Python and joins the other ranks.
func (r *rankRun) begin(ctx context.Context, python string) error {
	r.enter("starting Python", startLimit)
	rt, err := cli.StartRuntime(ctx, python)
	if err != nil {
		return err
	}
	info := rt.Info()
	r.mu.Lock()
	r.rt, r.report.Python, r.report.Torch = rt, info.Version, info.Torch
	r.mu.Unlock()
	// The clock of hook calls is supervise's; the group's own comes after it.
	r.enter("waiting for the other ranks to join", startLimit)
	r.group, err = rt.InitProcessGroup(ctx, pyhook.GroupConfig{Backend: r.plan.Backend, Timeout: max(r.plan.Timeout, startLimit) + time.Minute})
	if err != nil {
		return err
	}
	_, bytesErr := r.meter.SentBytes()
	r.note(func(report *rankReport) {
		report.Backend = r.group.Backend()
		if bytesErr != nil {
			report.NoBytes = bytesErr.Error()
		}
	})
	// Rank 0 serves the store: were it to fail at once, the others could not
	// even join, and would blame that.
	return r.group.Barrier(ctx)
}

// close ends Python in good order.
func (r *rankRun) close() error {
	r.enter("ending Python", startLimit)
	r.drop()
	r.group.Close()
	return r.rt.Close()
}

// drop lets go of what the check has in Python.
func (r *rankRun) drop() {
	for _, f := range r.closes {
		f()
	}
	r.random.close()
}
