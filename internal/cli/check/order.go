package check

import (
	"context"
	"fmt"
	"slices"

	"pyhook/c10d"
	"pyhook/ddp"
	"pyhook/internal/gather"
	"pyhook/pyhook"
)

// comparison is the second phase on one rank, and the third where there was one.
type comparison struct {
	phaseRecord
	// Running: the rank's file was written while it went on.
	Running bool `json:"running,omitempty"`
	// Repeats: the phase in serial order was run once more, and Repeatable says
	// whether that gave the same bits.
	Repeats    bool          `json:"repeats,omitempty"`
	Repeatable bool          `json:"repeatable,omitempty"`
	Failure    *checkFailure `json:"failure,omitempty"`
}

// runPhase runs all steps in an order and closes what it used, at the end of the
// check: a hook may still be at work.
func (r *rankRun) runPhase(ctx context.Context, number int, order ddp.Order) (*phase, error) {
	r.mu.Lock()
	r.phase, r.open = number, openCalls{}
	r.mu.Unlock()
	r.at(-1, -1)
	p, err := r.newPhase(ctx, order)
	if err != nil {
		return nil, err
	}
	r.closes = append(r.closes, p.close)
	if err := p.steps(ctx); err != nil {
		return nil, err
	}
	p.reducer.Close() // the next phase's hook calls are on Python's main thread, too
	return p, nil
}

// otherOrder is the order to compare the judged one with: NCCL's, or else the one
// that overlaps most without mixing up the ranks.
func otherOrder(p *phase) (ddp.Order, bool) {
	if len(p.model.buckets) == 1 {
		return 0, false // nothing overlaps
	}
	if p.reducer.Order() != ddp.OrderSerial {
		return ddp.OrderSerial, true
	}
	if _, ok := p.hook.(c10d.ChainedHook); ok {
		return ddp.OrderOrdered, true
	}
	if h, ok := p.hook.(c10d.InCallHook); ok && h.CollectivesOnlyInCall() {
		return ddp.OrderOverlapped, true
	}
	return 0, false
}

// compareOrders runs all steps in another order than the judged one, and where the
// results differ the serial ones once more: a hook that draws random numbers, or
// keeps something outside of its state, gives other bits in any order.
func (r *rankRun) compareOrders(ctx context.Context, judged *phase, order ddp.Order) error {
	other, err := r.runPhase(ctx, 1, order)
	if err != nil {
		return err
	}
	r.note(func(report *rankReport) { report.Compared.phaseRecord = other.record })
	r.enter("comparing the results of the two orders", startLimit)
	same, err := gather.JSON(ctx, r.group, sameBits(judged.record, other.record))
	if err != nil {
		return fmt.Errorf("comparing the results of the two orders: %w", err)
	}
	if !slices.Contains(same, false) {
		return nil
	}
	serial := judged.record
	if order == ddp.OrderSerial {
		serial = other.record
	}
	again, err := r.runPhase(ctx, 2, ddp.OrderSerial)
	if err != nil {
		return err
	}
	r.note(func(report *rankReport) {
		report.Compared.Repeats, report.Compared.Repeatable = true, sameBits(serial, again.record)
	})
	return nil
}

// sameBits: all results of two phases are alike.
func sameBits(a, b phaseRecord) bool {
	_, _, differ := firstOther(a, b)
	return !differ
}

// firstOther is where two phases first have other results.
func firstOther(a, b phaseRecord) (step, bucket int, differ bool) {
	for step := range a.Calls {
		for bucket := range a.Calls[step] {
			if step >= len(b.Calls) || a.Calls[step][bucket].Digest != b.Calls[step][bucket].Digest {
				return step, bucket, true
			}
		}
	}
	return 0, 0, false
}

// randomStates are those of Python's generators before and after the first
// phase's hook and state were made.
type randomStates struct{ made, run *pyhook.Object }

func (s *randomStates) before(r *rankRun) error { return keepOrSet(r, &s.made) }
func (s *randomStates) after(r *rankRun) error  { return keepOrSet(r, &s.run) }

func keepOrSet(r *rankRun, states **pyhook.Object) (err error) {
	if *states == nil {
		*states, err = r.python("random_states")
		return err
	}
	result, err := r.python("set_random_states", *states)
	if err == nil {
		result.Close()
	}
	return err
}

func (s *randomStates) close() {
	s.made.Close()
	s.run.Close()
}
