package check

import (
	"fmt"

	"pyhook/ddp"
	"pyhook/internal/quantile"
	"pyhook/internal/report"
)

// orderReport says in which order buckets were reduced, and whether another order
// gives the same results.
type orderReport struct {
	Judged      string   `json:"judged"`                // serial, ordered or overlapped
	StepSeconds *float64 `json:"step_seconds"`          // median, of the slowest rank; null: unknown
	Compared    string   `json:"compared"`              // the other order; "": none
	OtherStep   *float64 `json:"compared_step_seconds"` // null: it failed
	// SameBits: all results are those of the judged order; null: that is not known.
	SameBits *bool `json:"same_bits"`
	// Why explains a SameBits that is not true.
	Why     string        `json:"why,omitempty"`
	Failure *checkFailure `json:"compared_failure"` // of the other order; null: none
}

// aggregateOrder compares the two orders.
func aggregateOrder(ranks []*rankReport) *orderReport {
	r := &orderReport{Judged: ranks[0].Order, StepSeconds: stepSeconds(ranks, func(rank *rankReport) *phaseRecord { return &rank.phaseRecord })}
	for _, rank := range ranks {
		if rank.Compared != nil {
			r.Compared = rank.Compared.Order
		}
	}
	if r.Compared == "" {
		return r
	}
	r.Failure = rootOf(ranks, func(rank *rankReport) *checkFailure {
		if rank.Compared == nil {
			return nil
		}
		return rank.Compared.Failure
	})
	no, yes := false, true
	if r.Failure != nil {
		r.Why = "it fails " + stepAndBucket(r.Failure) + ": " + r.Failure.Message
		r.SameBits = &no
		return r
	}
	for _, rank := range ranks {
		if rank.Compared == nil {
			r.Why = fmt.Sprintf("rank %d has not said how it went there", rank.Rank)
			return r
		}
	}
	r.OtherStep = stepSeconds(ranks, func(rank *rankReport) *phaseRecord { return &rank.Compared.phaseRecord })
	r.SameBits = &yes
	for _, rank := range ranks {
		if rank.Compared.Repeats && !rank.Compared.Repeatable {
			r.SameBits, r.Why = nil, "two runs in serial order do not give the same bits either: the hook draws random numbers, or keeps something outside of its state"
			return r
		}
		if step, bucket, differ := firstOther(rank.phaseRecord, rank.Compared.phaseRecord); differ && *r.SameBits {
			r.SameBits = &no
			r.Why = fmt.Sprintf("bucket %d gets other bits in step %d (relative error %s, and %s in %s order)", bucket, step,
				report.Relative(rank.Compared.Calls[step][bucket].Error.Max), report.Relative(rank.Calls[step][bucket].Error.Max), r.Judged)
		}
	}
	return r
}

// stepAndBucket is where in a run a failure was.
func stepAndBucket(f *checkFailure) string {
	switch {
	case f.Step < 0:
		return "before its first step"
	case f.Bucket < 0:
		return fmt.Sprintf("after step %d", f.Step)
	}
	return fmt.Sprintf("in step %d, bucket %d", f.Step, f.Bucket)
}

// stepSeconds is the median step of the slowest rank, without the first one if there are more: it
// touches memory for the first time, and may have other buckets.
func stepSeconds(ranks []*rankReport, of func(*rankReport) *phaseRecord) *float64 {
	slowest := 0.0
	for _, rank := range ranks {
		p := of(rank)
		nanos := p.Nanos
		if len(nanos) > 1 {
			nanos = nanos[1:]
		}
		if len(nanos) == 0 {
			return nil
		}
		slowest = max(slowest, quantile.Median(nanos)/1e9)
	}
	return &slowest
}

// problems are wrong numbers: what is judged is not NCCL's order, and gives other
// results than that.
func (r *orderReport) problems() []string {
	if r.SameBits == nil || *r.SameBits || r.Failure != nil || r.Compared != ddp.OrderSerial.String() {
		return nil
	}
	return []string{fmt.Sprintf("%s gives other results than serial, which is NCCL's order: %s", r.Judged, r.Why)}
}

func (r *orderReport) hint() string {
	if len(r.problems()) == 0 {
		return ""
	}
	return betweenHint + ". With --order serial (ddp.Options.Order: OrderSerial) it is right"
}

// betweenHint is what makes hooks depend on the order.
const betweenHint = "does the hook keep something in its state between its body and its callbacks? " +
	"In NCCL's order a bucket's callbacks have run before the next bucket's body; overlapped they have not"

// printOrder prints the order and what the other one gave, in a line or two.
func printOrder(out *report.Printer, r *checkReport) {
	o := r.Order
	if o == nil || o.Judged == "" {
		return
	}
	name := o.Judged
	if name == ddp.OrderSerial.String() {
		name = "serial, which is NCCL's"
	}
	switch {
	case o.Compared == "" && len(r.Buckets) == 1:
		out.Printf("\norder: %s; with one bucket there is nothing to overlap\n", name)
	case o.Compared == "":
		out.Printf("\norder: %s; the hook knows no other\n", name)
	case o.SameBits == nil:
		out.Printf("\n%s whether %s is safe is not known: %s\n", out.Doubtful("note:"), o.Compared, o.Why)
	case *o.SameBits:
		out.Printf("\norder: %s. %s gives the same bits%s\n", name, upper(o.Compared), o.gain(r))
	case o.Failure != nil && o.Compared == ddp.OrderSerial.String():
		out.Printf("\n%s serial, which is NCCL's order, does not work for this hook, and %s does: %s\n", out.Doubtful("note:"), o.Judged, o.Why)
		out.Printf("%s", report.Indent(o.Failure.Traceback, "    "))
	case len(o.problems()) == 0:
		out.Printf("\n%s %s, which overlaps more, is not safe for this hook: %s\n", out.Doubtful("note:"), o.Compared, o.Why)
		if o.Failure != nil {
			out.Printf("%s", report.Indent(o.Failure.Traceback, "    "))
		}
		out.Hint("", betweenHint)
	}
}

// gain says which order is safe, and what overlapping buckets gains.
func (r *orderReport) gain(whole *checkReport) string {
	safe, how := r.Judged, ""
	if safe == ddp.OrderSerial.String() {
		safe, how = r.Compared, fmt.Sprintf(" (ddp.Options.Order: Order%s)", upper(r.Compared))
	}
	text := fmt.Sprintf(" in %s, so %s is safe for this hook%s", report.Count(whole.Steps, "step"), safe, how)
	if r.StepSeconds == nil || r.OtherStep == nil {
		return text
	}
	steps := max(whole.Steps-1, 1)
	more := ""
	if steps < manySteps {
		more = "; --steps 20 measures more"
	}
	return text + fmt.Sprintf(".\n  A step takes %s in %s order and %s in %s order (median of %s%s)", report.Seconds(*r.StepSeconds), r.Judged,
		report.Seconds(*r.OtherStep), r.Compared, report.Count(steps, "step"), more)
}

// manySteps are enough for a median that says something.
const manySteps = 10

func upper(name string) string {
	if name == "" {
		return ""
	}
	return string(name[0]-'a'+'A') + name[1:]
}

// clone lets a rank that hangs write to a comparison of its own.
func (c *comparison) clone() *comparison {
	if c == nil {
		return nil
	}
	own := *c
	return &own
}
