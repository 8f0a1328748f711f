package mnist

import (
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"pyhook/c10d"
	"pyhook/ddp"
	"pyhook/pyhook"
)

// run is one rank's training.
type run struct {
	flags      flags
	group      c10d.ProcessGroup
	hook       c10d.CommHook
	model      Model
	rank, size int

	first int // the step to begin with
	saved int // the step of the last checkpoint
	epoch int
	order []int // of the epoch's images
}

// checkpoint is a file of it. Each rank's hook has a file beside it, of the same step.
type checkpoint struct {
	Step, Batch, Ranks int
	Seed               uint64
	Hook               string
	Values             [][]float32
}

func (r *run) hookFile(step int) string {
	return fmt.Sprintf("%s.step%d.hook%d", r.flags.checkpoint, step, r.rank)
}

// save writes the hooks' states and then, on rank 0, the parameters: whole or not at all.
func (r *run) save(ctx context.Context, step int) error {
	if r.flags.checkpoint == "" {
		return nil
	}
	if h, ok := r.hook.(*pyhook.PythonCommHook); ok {
		if err := h.SaveStateFile(ctx, r.hookFile(step)); err != nil {
			return err
		}
	}
	if err := r.group.Barrier(ctx); err != nil { // all states are there
		return err
	}
	if r.rank == 0 {
		if err := r.saveValues(step); err != nil {
			return fmt.Errorf("saving %s: %w", r.flags.checkpoint, err)
		}
	}
	if err := r.group.Barrier(ctx); err != nil { // the former states are not needed
		return err
	}
	if r.saved > 0 {
		_ = os.Remove(r.hookFile(r.saved)) // of no use, and in nobody's way
	}
	r.saved = step
	return nil
}

func (r *run) saveValues(step int) error {
	file, err := os.CreateTemp(filepath.Dir(r.flags.checkpoint), ".checkpoint-*")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name()) // unless it was renamed
	c := checkpoint{step, r.flags.batch, r.size, r.flags.seed, r.flags.hook.Hook, r.model.Values()}
	if err := errors.Join(gob.NewEncoder(file).Encode(c), file.Sync(), file.Close()); err != nil {
		return err
	}
	return os.Rename(file.Name(), r.flags.checkpoint)
}

// restore goes on from the checkpoint, if there is one: on every rank, from the same step.
func (r *run) restore(ctx context.Context) error {
	if r.flags.checkpoint == "" {
		return nil
	}
	if err := ddp.ShareError(ctx, r.group, r.restoreValues()); err != nil {
		return err
	}
	if err := sameOnAll(ctx, r.group, "training would begin at step", strconv.Itoa(r.first)); err != nil {
		return fmt.Errorf("%w: every rank must find the one %s", err, r.flags.checkpoint)
	}
	if r.first == 0 {
		return nil
	}
	if h, ok := r.hook.(*pyhook.PythonCommHook); ok {
		if err := ddp.ShareError(ctx, r.group, h.LoadStateFile(ctx, r.hookFile(r.first))); err != nil {
			return err
		}
	}
	return r.model.Digest(ctx)
}

func (r *run) restoreValues() error {
	file, err := os.Open(r.flags.checkpoint)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer file.Close()
	var c checkpoint
	if err := gob.NewDecoder(file).Decode(&c); err != nil {
		return fmt.Errorf("reading %s: %w", r.flags.checkpoint, err)
	}
	f := r.flags
	if c.Batch != f.batch || c.Ranks != r.size || c.Seed != f.seed || c.Hook != f.hook.Hook {
		return fmt.Errorf("%s is of %d ranks, --batch %d --seed %d --hook %s, which this run must have too", f.checkpoint, c.Ranks, c.Batch, c.Seed, c.Hook)
	}
	values := r.model.Values()
	if len(values) != len(c.Values) {
		return fmt.Errorf("%s has %d parameters and the model has %d", f.checkpoint, len(c.Values), len(values))
	}
	for i, v := range values {
		if len(v) != len(c.Values[i]) {
			return fmt.Errorf("%s: parameter %d has %d elements, and %d in the model", f.checkpoint, i, len(c.Values[i]), len(v))
		}
		copy(v, c.Values[i])
	}
	if setter, ok := r.model.(Setter); ok {
		if err := setter.SetValues(values); err != nil {
			return err
		}
	}
	r.first, r.saved = c.Step, c.Step
	return nil
}
