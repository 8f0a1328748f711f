package compare

import (
	"errors"
	"fmt"
	"reflect"
	"slices"

	"pyhook/internal/trace"
	"pyhook/tensor"
)

// ErrRecording is wrapped by the errors of recordings that hooks cannot be compared on; others are a
// *trace.Error.
var ErrRecording = errors.New("this recording cannot be compared on")

// Recording is the Source of what pyhook.record wrote: the gradients that a hook was called with in a
// job. Hooks begin with states of their own.
type Recording struct {
	folder  string
	ranks   []*trace.Rank
	model   *Model
	buckets []Bucket
	steps   []int // numbers of the recorded steps that have these buckets on all ranks
	left    int   // how many others there are
}

// OpenRecording opens all ranks' recordings. Close closes them. The steps are those whose buckets are
// the last step's: DistributedDataParallel makes its buckets anew after the first.
func OpenRecording(folder string) (_ *Recording, err error) {
	r := &Recording{folder: folder}
	if r.ranks, err = trace.Open(folder, nil); err != nil {
		return nil, err
	}
	if err = r.layout(); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

// Close closes the files.
func (r *Recording) Close() {
	for _, rank := range r.ranks {
		rank.Close()
	}
}

// Model is the recorded model.
func (r *Recording) Model() *Model { return r.model }

// Ranks is on how many ranks the job was recorded.
func (r *Recording) Ranks() int { return len(r.ranks) }

// Steps is how many steps can be taken.
func (r *Recording) Steps() int { return len(r.steps) }

// Parameters, Buckets, Describe and Fill make a Recording a Source.
func (r *Recording) Parameters() []Parameter { return r.model.Parameters }

// Buckets are those of the last step.
func (r *Recording) Buckets() []Bucket { return r.buckets }

// Describe says which steps of which job they are.
func (r *Recording) Describe() string {
	text := fmt.Sprintf("gradients that %s was called with in a job of %d ranks, steps %d to %d", r.ranks[0].Hook.Name, len(r.ranks), r.steps[0], r.steps[len(r.steps)-1])
	if r.left > 0 {
		text += fmt.Sprintf("; steps of other buckets are left out: %d", r.left)
	}
	return text
}

// Fill reads a rank's recorded input.
func (r *Recording) Fill(step, bucket, rank int, into *tensor.Tensor) error {
	call := r.ranks[rank].StepAt(r.steps[step]).Calls[bucket]
	file, err := r.ranks[rank].OpenTensors(call.File)
	if err != nil {
		return err
	}
	defer file.Close()
	raw, err := tensor.RawBytes(into)
	if err != nil {
		return err
	}
	return file.Read("input", raw)
}

func (r *Recording) fail(format string, args ...any) error {
	return fmt.Errorf("%w: %s: %s", ErrRecording, r.folder, fmt.Sprintf(format, args...))
}

// layout chooses the steps and makes their buckets.
func (r *Recording) layout() error {
	first := r.ranks[0]
	common := slices.DeleteFunc(trace.Common(r.ranks), func(step int) bool {
		return slices.ContainsFunc(r.ranks, func(rank *trace.Rank) bool { return rank.StepAt(step).Failed() != nil })
	})
	if len(common) == 0 {
		return r.fail("no step was recorded on all ranks")
	}
	last := first.StepAt(common[len(common)-1])
	for _, number := range common {
		same, err := r.alike(number, last)
		if err != nil {
			return err
		}
		if same {
			r.steps = append(r.steps, number)
		}
	}
	r.left = len(common) - len(r.steps)
	r.model = &Model{Name: r.folder}
	for i, p := range first.Parameters {
		name := p.Name
		if name == "" {
			name = fmt.Sprintf("parameter%d", i)
		}
		r.model.Parameters = append(r.model.Parameters, Parameter{Name: name, Shape: p.Shape})
	}
	for _, call := range last.Calls {
		layout := first.Layouts[call.Layout]
		dtype, err := first.DTypeOf(layout.DType)
		if err != nil {
			return err
		}
		b := Bucket{Elements: layout.Numel, DType: dtype}
		for _, g := range layout.Gradients {
			// Newer torch has complex gradients as pairs of real numbers.
			if dtype.IsComplex() || g.Length != r.model.Parameters[g.Parameter].elements() {
				return r.fail("parameter %s has complex gradients, and an error is measured of real ones", r.model.Parameters[g.Parameter].Name)
			}
			b.Parameters, b.Offsets = append(b.Parameters, g.Parameter), append(b.Offsets, g.Offset)
		}
		r.buckets = append(r.buckets, b)
	}
	return nil
}

// alike reports whether a step has the buckets of another one, on all ranks.
func (r *Recording) alike(number int, as *trace.Step) (bool, error) {
	for _, rank := range r.ranks {
		step := rank.StepAt(number)
		if len(step.Calls) != len(as.Calls) {
			return false, nil
		}
		for i, call := range step.Calls {
			if call.Skipped != "" {
				return false, r.fail("rank %d, step %d, bucket %d was not recorded: %s", rank.Rank, number, call.Bucket, call.Skipped)
			}
			if !reflect.DeepEqual(rank.Layouts[call.Layout], r.ranks[0].Layouts[as.Calls[i].Layout]) {
				return false, nil
			}
		}
	}
	return true, nil
}
