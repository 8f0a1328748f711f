package check

import (
	"fmt"
	"slices"
	"strings"

	"pyhook/internal/cli"
	"pyhook/internal/quantile"
)

// callRecord is one hook call on one rank.
type callRecord struct {
	Nanos     int64     `json:"nanos"`  // 0: the step had this bucket in one with others
	Digest    string    `json:"digest"` // of the result's dtype and bytes
	DType     string    `json:"dtype"`
	NonFinite int64     `json:"non_finite"`
	Error     deviation `json:"error"`
	OwnMemory bool      `json:"own_memory"`
}

// rankReport is what one rank did: in the end it is whole, or has a Failure.
type rankReport struct {
	Rank     int           `json:"rank"`
	Size     int           `json:"size"`
	Python   string        `json:"python"`
	Torch    string        `json:"torch"`
	HookName string        `json:"hook_name"`
	Backend  string        `json:"backend"`
	NoBytes  string        `json:"no_bytes,omitempty"` // why bytes were not counted
	Legacy   []string      `json:"legacy"`
	Failure  *checkFailure `json:"failure,omitempty"`
	Stopped  bool          `json:"stopped,omitempty"` // it failed because a signal stopped it
	// StockRefuses says why DistributedDataParallel would not take the hook.
	StockRefuses string `json:"stock_refuses,omitempty"`
	phaseRecord         // of the order that is judged
	// Compared is the run in the other order; nil: there was no such run.
	Compared *comparison `json:"compared,omitempty"`
}

// checkFailure says why a rank could not go on.
type checkFailure struct {
	Code      string `json:"code"` // see hookCodes
	Rank      int    `json:"rank"`
	Step      int    `json:"step"`   // -1: before the first
	Bucket    int    `json:"bucket"` // -1: before the first
	Message   string `json:"message"`
	Traceback string `json:"traceback,omitempty"`
	Hint      string `json:"hint,omitempty"`
	Others    string `json:"others,omitempty"` // what the other ranks did meanwhile
	At        int64  `json:"at,omitempty"`     // Unix nanoseconds, to find the first; not in what check prints
}

// bucketReport is one bucket over all steps and ranks.
type bucketReport struct {
	Bucket        int        `json:"bucket"`
	Shapes        [][]int64  `json:"shapes"`
	Elements      int64      `json:"elements"`
	Valid         bool       `json:"valid"`
	Alike         bool       `json:"alike"`
	FirstUnlike   int        `json:"first_unlike_step"` // -1: none
	ErrorLast     *deviation `json:"error_last_step"`   // null: not finite
	ErrorWorst    *deviation `json:"error_worst_step"`
	MedianSeconds float64    `json:"median_seconds"`
	OwnMemory     bool       `json:"own_memory"`
	ResultDType   string     `json:"result_dtype"`
	Problem       string     `json:"problem,omitempty"`
}

// checkReport is the whole result; `pyhook help json` describes it.
type checkReport struct {
	OK       bool           `json:"ok"`
	Hook     string         `json:"hook"`
	HookName string         `json:"hook_name"`
	State    string         `json:"state"`
	Args     []string       `json:"state_args"`
	Ranks    int            `json:"ranks"`
	Steps    int            `json:"steps"`
	DType    string         `json:"dtype"`
	Seed     uint64         `json:"seed"`
	Backend  string         `json:"backend"`
	Python   string         `json:"python"`
	Torch    string         `json:"torch"`
	Buckets  []bucketReport `json:"buckets"`
	// BytesLast and BytesTotal were sent by all ranks together, in the last step and in all; null:
	// unknown.
	BytesLast  *uint64 `json:"bytes_last_step"`
	BytesTotal *uint64 `json:"bytes_total"`

	Order     *orderReport  `json:"order"` // null where the run failed
	Stock     string        `json:"stock_refuses,omitempty"`
	MayDiffer bool          `json:"ranks_may_differ"`
	Legacy    []string      `json:"legacy_names"`
	Problems  []string      `json:"problems"` // why it is not ok, where nothing failed
	Warnings  []string      `json:"warnings"` // what the exit code does not show
	Hint      string        `json:"hint,omitempty"`
	NoBytes   string        `json:"no_bytes,omitempty"`
	Failure   *checkFailure `json:"failure"`
}

func newCheckReport(p *checkPlan, ranks int) *checkReport {
	return &checkReport{Hook: p.Hook, State: p.State, Args: append([]string{}, p.StateArgs...), Ranks: ranks, Steps: p.Steps, DType: p.DType,
		Seed: p.Seed, MayDiffer: p.RanksMayDiffer, Backend: p.Backend, Buckets: []bucketReport{}, Legacy: []string{}, Problems: []string{}, Warnings: []string{}}
}

// aggregate makes the report of what all ranks, in their order, have done.
func aggregate(p *checkPlan, ranks []*rankReport) *checkReport {
	r := newCheckReport(p, len(ranks))
	first := ranks[0]
	r.HookName, r.Python, r.Torch, r.Stock = first.HookName, first.Python, first.Torch, first.StockRefuses
	if first.Backend != "" {
		r.Backend = first.Backend
	}
	for _, rank := range ranks {
		if r.NoBytes == "" {
			r.NoBytes = rank.NoBytes
		}
		for _, name := range rank.Legacy {
			if !slices.Contains(r.Legacy, name) {
				r.Legacy = append(r.Legacy, name)
			}
		}
	}
	slices.Sort(r.Legacy)
	if r.Failure = rootFailure(ranks); r.Failure != nil {
		r.Failure.hintOrder(p, ranks[r.Failure.Rank].Order)
		return r
	}
	if r.NoBytes == "" {
		r.BytesLast, r.BytesTotal = new(uint64), new(uint64)
		for _, rank := range ranks {
			for _, sent := range rank.Sent {
				*r.BytesTotal += sent
			}
			*r.BytesLast += rank.Sent[p.Steps-1]
		}
	}
	for bucket, shapes := range p.Buckets {
		b := aggregateBucket(p, bucket, ranks)
		b.Bucket, b.Shapes, b.Elements = bucket, shapes, elementsOf(shapes)
		if b.Problem != "" {
			r.Problems = append(r.Problems, fmt.Sprintf("bucket %d: %s", bucket, b.Problem))
		}
		r.Buckets = append(r.Buckets, b)
	}
	r.Order = aggregateOrder(ranks)
	r.Problems = append(r.Problems, r.Order.problems()...)
	r.OK = len(r.Problems) == 0
	r.Hint = r.hint()
	if text := farFromTheMean(p, r); text != "" {
		r.Warnings = append(r.Warnings, text)
	}
	return r
}

func aggregateBucket(p *checkPlan, bucket int, ranks []*rankReport) bucketReport {
	b := bucketReport{Valid: true, Alike: true, FirstUnlike: -1, OwnMemory: true}
	var worst, lastError deviation
	var times []int64
	for step := range p.Steps {
		stepError := deviation{}
		for rank, of := range ranks {
			call := of.Calls[step][bucket]
			if call.Nanos > 0 {
				times = append(times, call.Nanos)
			}
			stepError = stepError.worse(call.Error)
			b.OwnMemory = b.OwnMemory && call.OwnMemory
			b.ResultDType = call.DType
			if call.NonFinite > 0 && b.Valid {
				b.Valid = false
				b.Problem = fmt.Sprintf("not valid: %d of %d elements are not finite (rank %d, step %d)",
					call.NonFinite, elementsOf(p.Buckets[bucket]), rank, step)
			}
			if call.Digest != ranks[0].Calls[step][bucket].Digest && b.Alike {
				b.Alike, b.FirstUnlike = false, step
			}
		}
		lastError, worst = stepError, worst.worse(stepError)
	}
	b.MedianSeconds = quantile.Median(times) / 1e9
	if b.Valid {
		b.ErrorLast, b.ErrorWorst = &lastError, &worst
	}
	switch {
	case b.Problem != "":
	case !b.Alike && !p.RanksMayDiffer:
		b.Problem = fmt.Sprintf("ranks differ, from step %d on", b.FirstUnlike)
	case p.MaxError > 0 && worst.Max > p.MaxError:
		b.Problem = fmt.Sprintf("relative error %.2g is more than --max-error %g", worst.Max, p.MaxError)
	}
	return b
}

// hint says what to make of ranks that differ.
func (r *checkReport) hint() string {
	differ := slices.ContainsFunc(r.Buckets, func(b bucketReport) bool { return !b.Alike })
	switch {
	case !differ || r.MayDiffer:
		return r.Order.hint()
	case strings.HasSuffix(r.HookName, ".noop_hook"):
		return "noop_hook does not communicate: it is for measuring what communication costs, not for training"
	default:
		return "every rank must end up with the same gradients, or the models drift apart: " +
			"does the hook reduce over all ranks, and does nothing random or rank-dependent follow the reduction?"
	}
}

func (r *checkReport) exitCode() int {
	switch {
	case r.OK:
		return cli.ExitOK
	case r.Failure != nil && r.Failure.Code == codeNoPython:
		return cli.ExitNoPython
	case r.Failure != nil && r.Failure.Code == codeDied:
		return cli.ExitRankDied
	}
	return cli.ExitFailed
}
