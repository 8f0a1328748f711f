// Package replay runs a recorded hook from Go on what a recording says went into it, and compares
// the results bit by bit. Run is one rank of it; internal/cli/replay starts them and reports.
package replay

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"pyhook/c10d"
	"pyhook/ddp"
	"pyhook/internal/gather"
	"pyhook/internal/hookspec"
	"pyhook/internal/trace"
	"pyhook/pyhook"
	"pyhook/tensor"
)

// Plan is what a replay does, on every rank alike. It travels to the ranks as JSON.
type Plan struct {
	Folder string
	// Ranks are the recorded ranks that the processes stand for, one each.
	Ranks   []int
	Spec    hookspec.Spec // Hook "": the recorded one
	Backend string
	Order   ddp.Order
	Timeout time.Duration // of each step
	// Hook, of Go, runs in place of Spec's, if given.
	Hook c10d.CommHook `json:"-"`
}

// RankReport is what one rank found.
type RankReport struct {
	Rank         int // the recorded one
	Hook         string
	Python       string
	Torch        string
	Backend      string
	Order        string
	Complete     bool   // the recording came to its end
	Ended        string // how
	Steps        []int  // that were replayed
	Compared     int    // calls
	Skipped      []string
	Notes        []string
	Partial      bool     // some recorded step was not replayed; Notes say why
	Misread      []CallID // results that stock DDP read wrong
	Differences  []Difference
	LargestError float64 // of all results, relative: see Difference
	Failure      *Failure
}

// CallID names a call of the hook, on every rank.
type CallID struct {
	Step   int `json:"step"`
	Bucket int `json:"bucket"`
}

// Failure is an error that ended a rank's replay.
type Failure struct {
	Message   string
	Traceback string
	Peer      bool // it only met another rank's
	Stopped   bool
}

// rankRun is a replay on one rank.
type rankRun struct {
	plan   *Plan
	rank   *trace.Rank
	report *RankReport

	rt     *pyhook.Runtime
	group  *pyhook.TorchGroup
	params []*c10d.Parameter
	hook   c10d.CommHook
	python *pyhook.PythonCommHook // nil: the hook is Go's
	order  ddp.Order
	cache  map[bucketKey]*replayBucket
	groups []stateGroup
	loads  bool // a recorded state is put into the hook's
	closes []func()
}

// Join joins the other ranks, which meet by the environment's variables, for Run. The group ends
// with the process.
func Join(ctx context.Context, rt *pyhook.Runtime, plan *Plan) (*pyhook.TorchGroup, error) {
	return rt.InitProcessGroup(ctx, pyhook.GroupConfig{Backend: plan.Backend, Timeout: max(plan.Timeout, time.Minute)})
}

// Run does the whole replay on one rank of the group, whose size must be that of plan.Ranks: a
// collective. What it found is in report, also after an error.
func Run(ctx context.Context, rt *pyhook.Runtime, group *pyhook.TorchGroup, plan *Plan, report *RankReport) error {
	rank, err := trace.OpenRank(plan.Folder, plan.Ranks[group.Rank()])
	if err != nil {
		return err
	}
	defer rank.Close()
	r := &rankRun{plan: plan, rank: rank, report: report, rt: rt, group: group, cache: map[bucketKey]*replayBucket{}}
	defer r.close()
	info := rt.Info()
	report.Complete, report.Ended = rank.Complete, rank.Ended
	switch {
	case !rank.Complete:
		r.note("the recording was cut off after %s; what is there is replayed", count(len(rank.Steps), "whole step"))
	case rank.Ended == "limit" || rank.Ended == "error":
		r.note("the recording ended early: %s", rank.Why)
	}
	report.Rank, report.Python, report.Torch, report.Backend = rank.Rank, info.Version, info.Torch, group.Backend()
	if info.Torch != rank.Versions.Torch {
		r.note("recorded with torch %s, replayed with %s: arithmetic may differ between them", rank.Versions.Torch, info.Torch)
	}
	if err := r.torch(ctx, "set_num_threads", rank.Threads); err != nil {
		return err
	}
	steps, err := r.commonSteps(ctx)
	if err != nil {
		return err
	}
	if err := r.makeHook(ctx); err != nil {
		return err
	}
	for _, number := range steps {
		if err := r.step(ctx, rank.StepAt(number)); err != nil {
			return fmt.Errorf("step %d: %w", number, err)
		}
		report.Steps = append(report.Steps, number)
	}
	return group.Barrier(ctx)
}

// close lets go of hook, buckets and parameters.
func (r *rankRun) close() {
	for _, b := range r.cache {
		b.close()
	}
	for i := len(r.closes) - 1; i >= 0; i-- {
		r.closes[i]()
	}
	for _, p := range r.params {
		p.Close()
	}
}

func count(n int, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return fmt.Sprintf("%d %s", n, noun)
}

func (r *rankRun) note(format string, args ...any) {
	r.report.Notes = append(r.report.Notes, fmt.Sprintf(format, args...))
}

func (r *rankRun) noteOnce(text string) {
	if !slices.Contains(r.report.Notes, text) {
		r.note("%s", text)
	}
}

// torch calls a function of torch's.
func (r *rankRun) torch(ctx context.Context, name string, args ...any) error {
	torch, err := r.rt.Import(ctx, "torch")
	if err != nil {
		return err
	}
	defer torch.Close()
	result, err := torch.Call(name, args...)
	if err == nil {
		result.Close()
	}
	return err
}

// commonSteps are the steps that all ranks have, up to the first that this rank cannot replay. A
// collective.
func (r *rankRun) commonSteps(ctx context.Context) ([]int, error) {
	type recorded struct {
		Steps   []int
		Buckets []uint64 // a digest of each
	}
	mine := recorded{Steps: []int{}}
	for _, s := range r.rank.Steps {
		if failed := s.Failed(); failed != nil {
			r.report.Partial = true
			r.note("step %d and those after it are not replayed: in PyTorch the hook failed at bucket %d: %s", s.Step, failed.Bucket, oneLine(failed.Result.Error))
			break
		}
		mine.Steps, mine.Buckets = append(mine.Steps, s.Step), append(mine.Buckets, r.rank.BucketsOf(&s))
	}
	all, err := gather.JSON(ctx, r.group, mine)
	if err != nil {
		return nil, err
	}
	lists := make([][]int, len(all))
	for i, one := range all {
		lists[i] = one.Steps
	}
	common := trace.CommonOf(lists)
	if left := len(mine.Steps) - len(common); left > 0 {
		r.report.Partial = true
		r.note("%d of %s were not recorded on every rank, and are not replayed", left, count(len(mine.Steps), "step"))
	}
	for _, step := range common {
		digest := func(of recorded) uint64 { return of.Buckets[slices.Index(of.Steps, step)] }
		for i := range all {
			if digest(all[i]) != digest(all[0]) { // collectives of other lengths would end the process
				return nil, &trace.Error{Path: r.plan.Folder, Detail: fmt.Sprintf("step %d has other buckets on rank %d than on rank %d", step, r.plan.Ranks[i], r.plan.Ranks[0]),
					Hint: "the ranks are of different jobs, or a manifest was changed: record all ranks into a new folder"}
			}
		}
	}
	if len(common) == 0 {
		return nil, &trace.Error{Path: r.plan.Folder, Detail: "there is no step that all ranks recorded whole", Hint: "record more steps"}
	}
	return common, nil
}

// makeHook makes the hook, its state, and the groups that the state had.
func (r *rankRun) makeHook(ctx context.Context) error {
	if err := r.makeParameters(); err != nil {
		return err
	}
	if err := r.makeGroups(ctx); err != nil {
		return err
	}
	hook := r.plan.Hook
	r.report.Hook = fmt.Sprintf("%T", hook)
	if hook == nil {
		spec, err := r.spec()
		if err != nil {
			return err
		}
		r.report.Hook = spec.Hook
		var closeHook func()
		if hook, closeHook, err = r.make(ctx, spec); err != nil {
			return err
		}
		r.closes = append(r.closes, closeHook)
	}
	r.hook, r.order = hook, r.plan.Order
	python, ok := hook.(*pyhook.PythonCommHook)
	if !ok {
		r.order = ddp.OrderOverlapped
		r.report.Order = r.order.String()
		return nil
	}
	r.python, r.report.Hook = python, python.Name()
	if r.order == ddp.OrderAuto {
		r.order = ddp.OrderSerial
		if independent, err := python.Independent(); err != nil {
			return err
		} else if independent {
			r.order = ddp.OrderOrdered
		}
	}
	r.report.Order = r.order.String()
	return r.setGroups()
}

// makeParameters makes the parameters. The lengths of what is in a bucket are those of a file, so
// that no manifest can make it allocate more; others have no values.
func (r *rankRun) makeParameters() error {
	used := map[int]bool{}
	seen := map[int]bool{}
	for i := range r.rank.Steps {
		for _, c := range r.rank.Steps[i].Calls {
			if c.Skipped != "" || seen[c.Layout] {
				continue
			}
			seen[c.Layout] = true
			layout := &r.rank.Layouts[c.Layout]
			dtype, err := r.rank.DTypeOf(layout.DType)
			if err != nil {
				return &trace.Error{Path: r.rank.Path(), Detail: err.Error()}
			}
			if err := r.checkInput(&c, layout.Numel*int64(dtype.Size())); err != nil {
				return fmt.Errorf("step %d: bucket %d: %w", r.rank.Steps[i].Step, c.Bucket, err)
			}
			for _, g := range layout.Gradients {
				used[g.Parameter] = true
			}
		}
	}
	for i, p := range r.rank.Parameters {
		dtype, err := r.rank.DTypeOf(p.DType)
		if err != nil {
			return &trace.Error{Path: r.rank.Path(), Detail: err.Error()}
		}
		parameter := &c10d.Parameter{Name: p.Name, Shape: p.Shape, DType: dtype}
		if used[i] {
			if parameter.Data, err = unknown(dtype, p.Shape); err != nil {
				return err
			}
			r.closes = append(r.closes, parameter.Data.Close)
		}
		r.params = append(r.params, parameter)
	}
	return nil
}

func (r *rankRun) checkInput(c *trace.Call, length int64) error {
	file, err := r.rank.OpenTensors(c.File)
	if err != nil {
		return err
	}
	defer file.Close()
	return file.Check("input", length)
}

// unknown is a parameter's values, which are not recorded: NaN, so that a hook which computes with
// them shows. Hooks that update weights can write there.
func unknown(dtype tensor.DType, shape []int64) (*tensor.Tensor, error) {
	data, err := tensor.New(dtype, shape...)
	if err != nil || data.Len() == 0 {
		return data, err
	}
	nan, err := tensor.FromSlice([]float64{math.NaN()}, 1)
	if err != nil {
		return data, err
	}
	defer nan.Close()
	all, err := nan.View(0, shape, make([]int64, len(shape)))
	if err != nil {
		return data, err
	}
	defer all.Close()
	return data, tensor.Copy(data, all)
}

// spec is the hook that is run and how its state is made.
func (r *rankRun) spec() (hookspec.Spec, error) {
	spec := r.plan.Spec
	spec.NCCLFutures = spec.NCCLFutures || r.rank.Backend == "nccl" && r.plan.Backend != "nccl"
	if spec.Hook == "" {
		named, err := RecordedHook(r.plan.Folder, r.rank.Manifest)
		if err != nil {
			return spec, err
		}
		spec.Hook = named
		if spec.State == "" && r.rank.State.Class != "" {
			if spec.State, err = RecordedState(r.plan.Folder, r.rank.Manifest); err != nil {
				return spec, err
			}
		}
	}
	// Arguments that the user gives are not to be overwritten by those in the recording.
	r.loads = (spec.State != "" || r.plan.Spec.Hook == "") && len(r.plan.Spec.StateArgs) == 0
	return spec, nil
}

// make is spec.Make, with the recorded arguments for a state that the recording names.
func (r *rankRun) make(ctx context.Context, spec hookspec.Spec) (c10d.CommHook, func(), error) {
	cfg := pyhook.HookConfig{Group: r.group, Parameters: r.params, Futures: spec.Futures()}
	switch {
	case strings.HasPrefix(spec.Hook, "go:") || r.plan.Spec.Hook != "" && (spec.WithDefaults().State != "" || len(spec.StateArgs) > 0):
		return spec.Make(ctx, r.rt, r.group, r.params)
	case spec.State != "":
		args, err := Arguments(r.rank.Manifest)
		if err != nil {
			return nil, nil, err
		}
		cfg.State = pyhook.StateSpec{Spec: spec.State, Args: args}
	default:
		for _, g := range r.groups {
			if g.attribute == "" { // it is the state itself
				cfg.State = g.group
			}
		}
	}
	hook, err := r.rt.NewHook(ctx, spec.Hook, cfg)
	if err != nil {
		return nil, nil, err
	}
	return hook, hook.Close, nil
}

// Arguments are the recorded arguments of a state's class.
func Arguments(m *trace.Manifest) (map[string]any, error) {
	args := map[string]any{}
	for name, value := range m.State.Arguments {
		converted, err := hookspec.Numbers(value)
		if err != nil {
			return nil, err
		}
		args[name] = converted
	}
	return args, nil
}

// stateGroup is a process group that the recorded state had in an attribute; of attribute "" it was
// the state.
type stateGroup struct {
	attribute string
	group     *pyhook.TorchGroup
	whole     bool // of all ranks
}

// makeGroups makes the process groups that the recorded state was or had. A collective: every rank
// makes every group.
func (r *rankRun) makeGroups(ctx context.Context) error {
	type wanted struct {
		Attribute string
		Ranks     []int // numbers of the processes that stand for the group's ranks
	}
	mine := []wanted{}
	for _, g := range r.rank.State.Groups {
		if !slices.Contains(g.Ranks, r.rank.Rank) {
			return &trace.Error{Path: r.rank.Path(), Detail: fmt.Sprintf("its state has a process group of ranks %v, without rank %d", g.Ranks, r.rank.Rank), Hint: "it was changed after it was written; record again"}
		}
		w := wanted{Attribute: g.Attribute}
		for _, rank := range g.Ranks {
			if i := slices.Index(r.plan.Ranks, rank); i >= 0 {
				w.Ranks = append(w.Ranks, i)
			}
		}
		mine = append(mine, w)
	}
	all, err := gather.JSON(ctx, r.group, mine)
	if err != nil {
		return err
	}
	made := map[string]*pyhook.TorchGroup{}
	for _, list := range all {
		for _, w := range list {
			key := fmt.Sprint(w.Ranks)
			if _, is := made[key]; is {
				continue
			}
			if made[key] = r.group; len(w.Ranks) == len(r.plan.Ranks) {
				continue
			}
			if made[key], err = r.group.NewGroup(ctx, w.Ranks); err != nil {
				return err
			}
		}
	}
	for _, w := range mine {
		r.groups = append(r.groups, stateGroup{w.Attribute, made[fmt.Sprint(w.Ranks)], len(w.Ranks) == len(r.plan.Ranks)})
	}
	return nil
}

// setGroups puts the groups into the state that was made.
func (r *rankRun) setGroups() error {
	for _, g := range r.groups {
		if g.attribute == "" || g.attribute == "process_group" && g.whole || r.python.State() == nil || !r.loads {
			continue
		}
		if err := r.python.State().SetAttr(g.attribute, g.group.Object()); err != nil {
			return fmt.Errorf("giving the state its group %s: %w", g.attribute, err)
		}
	}
	return nil
}

func (r *rankRun) whyNotLoaded() string {
	given := r.plan.Spec
	if given.State == "" && len(given.StateArgs) == 0 && given.WithDefaults().State == "" && r.rank.State.Spec != "" {
		return "the hook gets it with --state " + quoted(r.rank.State.Spec)
	}
	return "the hook that is run has a state of its own"
}

// brackets are the arguments of a state's spec, as they are written.
func brackets(spec string) string {
	_, arguments, _ := strings.Cut(spec, "(")
	return arguments
}

// loadState puts the recorded state of before a step into the hook.
func (r *rankRun) loadState(ctx context.Context, s *trace.Step) error {
	if s.StateNotSaved != "" && s == &r.rank.Steps[0] {
		r.note("the hook's state is not in the recording, and is made anew: %s", s.StateNotSaved)
	}
	if s.State == "" || r.python == nil {
		return nil
	}
	if !r.loads {
		if s == &r.rank.Steps[0] {
			r.note("the recorded state, a %s, is not used: %s", cmp.Or(r.rank.State.Class, "state of the hook itself"), r.whyNotLoaded())
		}
		return nil
	}
	data, err := r.rank.ReadState(s.State)
	if err != nil {
		return err
	}
	options := []pyhook.StateOption{pyhook.AnyBuckets()}
	if len(r.plan.Ranks) != r.rank.WorldSize {
		options = append(options, pyhook.AnyRank())
	}
	if given := r.plan.Spec.State; s == &r.rank.Steps[0] && brackets(given) != "" && brackets(given) != brackets(r.rank.State.Spec) {
		r.note("the recorded state was put into %s, so what it was made with is the recording's: --state-arg makes a state of your own", given)
	}
	err = r.python.LoadState(ctx, bytes.NewReader(data), options...)
	if r.plan.Spec.State != "" && errors.Is(err, c10d.ErrStateClass) {
		r.loads = false
		r.note("the recorded state is not used: %v", err)
		return nil
	}
	return err
}
