package replay

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"pyhook/internal/cli"
	"pyhook/internal/replay"
	"pyhook/internal/report"
	"pyhook/internal/trace"
)

// JSONHelp describes what replay --json prints, for `pyhook help json`.
const JSONHelp = `pyhook replay --json
  ok                the bits of all results are the recorded ones, or --tolerance holds
  trace             the folder
  hook, state       the hook that ran, and the class of the recorded state
  ranks, recorded_ranks   the recorded ranks that were replayed; how many there were
  backend, order    of the replay; of serial, ordered and overlapped
  python, torch, recorded_torch
  complete, ended   whether the recording came to its end, and how
  steps             the numbers of the steps that were replayed
  compared, alike   results, and those of them with the same bits
  skipped           calls that were not recorded
  differences       one object for each result that differs
    step, bucket, rank
    dtype, elements, differing
    first, parameter, index     the first element that differs: in the bucket; of
                    which parameter, where in it
    recorded, replayed, ulps    its values, and how many numbers lie between
    largest_error, rms_error    over all elements
    relative_error  the largest by the largest recorded element
    why             in place of these: why the elements cannot be compared
  largest_relative_error
  misread           {step, bucket} of results that PyTorch itself reads wrong
  notes             what else to know
  failure           null, or what ended the replay: rank, message, traceback

`

// Report is what replay --json prints.
type Report struct {
	OK            bool                `json:"ok"`
	Trace         string              `json:"trace"`
	Hook          string              `json:"hook"`
	State         string              `json:"state"`
	Ranks         []int               `json:"ranks"`
	RecordedRanks int                 `json:"recorded_ranks"`
	Backend       string              `json:"backend"`
	Order         string              `json:"order"`
	Python        string              `json:"python"`
	Torch         string              `json:"torch"`
	RecordedTorch string              `json:"recorded_torch"`
	Complete      bool                `json:"complete"`
	Ended         string              `json:"ended"`
	Steps         []int               `json:"steps"`
	Compared      int                 `json:"compared"`
	Alike         int                 `json:"alike"`
	Skipped       []string            `json:"skipped"`
	Differences   []replay.Difference `json:"differences"`
	Largest       float64             `json:"largest_relative_error"`
	Misread       []replay.CallID     `json:"misread"`
	Notes         []string            `json:"notes"`
	Failure       *failure            `json:"failure"`

	buckets map[int][2]int   // of each step, and those of them that were not recorded
	noted   map[string][]int // the ranks of each rank's note
	died    bool
	partial bool    // not every recorded step was replayed
	within  float64 // --tolerance
}

type failure struct {
	Rank      int    `json:"rank"`
	Message   string `json:"message"`
	Traceback string `json:"traceback"`

	peer bool
}

func newReport(f *flags, m *trace.Manifest) *Report {
	r := &Report{
		Trace: f.plan.Folder, State: m.State.Class, RecordedRanks: m.WorldSize, RecordedTorch: m.Versions.Torch,
		Complete: m.Complete, Ended: m.Ended, Steps: []int{}, Skipped: []string{}, Differences: []replay.Difference{},
		Misread: []replay.CallID{}, Notes: []string{}, Ranks: f.plan.Ranks, buckets: map[int][2]int{}, noted: map[string][]int{}, within: f.tolerance,
	}
	for _, s := range m.Steps {
		r.buckets[s.Step] = [2]int{len(s.Calls), 0}
		for _, c := range s.Calls {
			if c.Skipped != "" {
				r.buckets[s.Step] = [2]int{len(s.Calls), r.buckets[s.Step][1] + 1}
			}
		}
	}
	if len(f.plan.Ranks) != m.WorldSize {
		r.note(fmt.Sprintf("%d of %d recorded ranks: the hook averages over these alone, so its results are not the recorded ones", len(f.plan.Ranks), m.WorldSize))
	}
	return r
}

func (r *Report) note(text string) {
	if !slices.Contains(r.Notes, text) {
		r.Notes = append(r.Notes, text)
	}
}

// add takes a rank's report in.
func (r *Report) add(one *replay.RankReport) {
	if f := one.Failure; f != nil && (r.Failure == nil || r.Failure.peer && !f.Peer) {
		r.Failure = &failure{Rank: one.Rank, Message: f.Message, Traceback: f.Traceback, peer: f.Peer}
	}
	if one.Hook != "" {
		r.Hook, r.Backend, r.Order, r.Python, r.Torch = one.Hook, one.Backend, one.Order, one.Python, one.Torch
	}
	if len(one.Steps) > len(r.Steps) {
		r.Steps = one.Steps
	}
	r.Compared += one.Compared
	r.Alike += one.Compared - len(one.Differences)
	r.Differences = append(r.Differences, one.Differences...)
	r.partial = r.partial || one.Partial
	r.Largest = max(r.Largest, one.LargestError)
	for _, text := range one.Notes {
		r.noted[text] = append(r.noted[text], one.Rank)
		r.note(text)
	}
	if one.Torch != "" { // it opened its recording
		r.Complete = r.Complete && one.Complete
		if r.Ended == "steps" || one.Ended == "" {
			r.Ended = one.Ended
		}
	}
	for _, text := range one.Skipped {
		if !slices.Contains(r.Skipped, text) {
			r.Skipped = append(r.Skipped, text)
		}
	}
	for _, p := range one.Misread {
		if !slices.Contains(r.Misread, p) {
			r.Misread = append(r.Misread, p)
		}
	}
}

// judge says whether it is ok: the whole recording was compared, and each result is the recorded
// one, or within --tolerance.
func (r *Report) judge(f *flags) {
	slices.SortStableFunc(r.Differences, func(a, b replay.Difference) int {
		return cmp.Or(a.Step-b.Step, a.Bucket-b.Bucket, a.Rank-b.Rank)
	})
	for i, text := range r.Notes {
		if ranks := r.noted[text]; len(ranks) > 0 && len(ranks) < len(r.Ranks) {
			r.Notes[i] = fmt.Sprintf("rank %s: %s", strings.Trim(fmt.Sprint(ranks), "[]"), text)
		}
	}
	alike := r.Alike == r.Compared || f.tolerance > 0 && r.Largest <= f.tolerance
	r.OK = r.Failure == nil && r.Compared > 0 && alike && !r.partial
}

func (r *Report) exitCode() int {
	switch {
	case r.OK:
		return cli.ExitOK
	case r.died:
		return cli.ExitRankDied
	}
	return cli.ExitFailed
}

// print writes the report for people; a failure goes to stderr.
func (r *Report) print(out, stderr *report.Printer) {
	if r.Failure != nil {
		message, hints := report.SplitHints(r.Failure.Message)
		stderr.Error(fmt.Sprintf("replaying %s, rank %d: %s", r.Trace, r.Failure.Rank, strings.TrimSpace(message)), r.Failure.Traceback, hints...)
		for _, note := range r.Notes {
			stderr.Printf("note: %s\n", note)
		}
		return
	}
	out.Printf("%s, %s of %s, over %s, order %s\n", out.Bold(r.Hook), report.Count(len(r.Ranks), "rank"), r.Trace, r.Backend, r.Order)
	out.Printf("recorded with torch %s, replayed with torch %s on Python %s\n\n", r.RecordedTorch, r.Torch, r.Python)
	r.printSteps(out)
	verdict := out.Good("the same bits")
	switch {
	case r.Compared == 0:
		verdict = out.Bad("nothing was compared")
	case r.Alike == r.Compared && r.partial:
		verdict = out.Doubtful("the same bits, but not all that was recorded could be replayed")
	case r.Alike < r.Compared && r.OK:
		verdict = out.Doubtful(fmt.Sprintf("%d differ, all within --tolerance %g", r.Compared-r.Alike, r.within))
	case r.Alike < r.Compared:
		verdict = out.Bad(fmt.Sprintf("%d differ", r.Compared-r.Alike))
	}
	out.Printf("\n%s of %s: %s\n", report.Count(r.Compared, "result"), report.Count(len(r.Steps), "step"), verdict)
	if len(r.Misread) > 0 {
		out.Printf("note: PyTorch itself reads %s wrong, offset or strided views of which it takes other elements: its gradients are wrong, those from Go are the hook's\n",
			report.Count(len(r.Misread), "result"))
	}
	reasons := map[string]int{}
	for _, text := range r.Skipped {
		_, reason, _ := strings.Cut(text, ": ")
		reasons[reason]++
	}
	for _, reason := range slices.Sorted(maps.Keys(reasons)) {
		out.Printf("note: not recorded, so not compared: %s, each of %s\n", report.Count(reasons[reason], "call"), reason)
	}
	for _, note := range r.Notes {
		out.Printf("note: %s\n", note)
	}
}

// maxShown bounds the differences that are printed; --json has all.
const maxShown = 12

// printSteps writes a line for runs of steps that are the same, and the first differences.
func (r *Report) printSteps(out *report.Printer) {
	rows := [][]report.Cell{report.Row("step", "buckets", "result")}
	shown := 0
	for i := 0; i < len(r.Steps); i++ {
		last := i
		for r.alikeAt(r.Steps[i]) && last+1 < len(r.Steps) && r.alikeAt(r.Steps[last+1]) && r.buckets[r.Steps[last+1]] == r.buckets[r.Steps[i]] {
			last++
		}
		name := fmt.Sprint(r.Steps[i])
		if last > i {
			name = fmt.Sprintf("%d to %d", r.Steps[i], r.Steps[last])
		}
		calls := r.buckets[r.Steps[i]]
		count := fmt.Sprint(calls[0])
		if r.alikeAt(r.Steps[i]) {
			result := "same bits"
			if calls[1] == calls[0] {
				result = "not recorded"
			} else if calls[1] > 0 {
				result = fmt.Sprintf("same bits, %d not recorded", calls[1])
			}
			rows = append(rows, report.Row(name, count, result))
		}
		for _, d := range r.Differences {
			if d.Step == r.Steps[i] && shown < maxShown {
				shown++
				rows = append(rows, []report.Cell{report.Text(name), report.Text(count), {Text: text(&d), Style: out.Doubtful}})
			}
		}
		i = last
	}
	out.Table("", report.AlignLeft, rows)
	if more := len(r.Differences) - shown; more > 0 {
		out.Printf("and %d more; --json has all\n", more)
	}
}

func (r *Report) alikeAt(step int) bool {
	return !slices.ContainsFunc(r.Differences, func(d replay.Difference) bool { return d.Step == step })
}

// text is a difference in a line.
func text(d *replay.Difference) string {
	where := fmt.Sprintf("bucket %d, rank %d: ", d.Bucket, d.Rank)
	if d.Why != "" {
		return where + d.Why
	}
	index := strings.Trim(strings.ReplaceAll(fmt.Sprint(d.Index), " ", ", "), "[]")
	gap := ""
	if d.ULPs >= 0 {
		gap = ", " + report.Count(int(d.ULPs), "ulp")
	}
	errors := fmt.Sprintf("largest error %.3g, rms %.3g", d.Largest, d.RMS)
	if d.Largest == math.MaxFloat64 {
		errors = "the largest error is not finite"
	}
	return where + fmt.Sprintf("%d of %d elements differ, first %d (%s[%s]): PyTorch %g, Go %g%s; %s",
		d.Differing, d.Elements, d.First, d.Parameter, index, float64(d.Recorded), float64(d.Replayed), gap, errors)
}
