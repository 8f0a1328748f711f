package mnist

import (
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"

	"pyhook/c10d"
	"pyhook/ddp"
	"pyhook/internal/demo/checkpoint"
)

// run is one rank's training.
type run struct {
	flags      flags
	group      c10d.ProcessGroup
	model      Model
	rank, size int

	keeper checkpoint.Keeper
	first  int // the step to begin with
	epoch  int
	order  []int // of the epoch's images
}

// values are what rank 0 saves.
type values struct {
	Step, Batch, Ranks int
	Seed               uint64
	Hook               string
	Values             [][]float32
}

// save is a collective.
func (r *run) save(ctx context.Context, step int) error {
	return r.keeper.Save(ctx, step, func(w io.Writer) error {
		return gob.NewEncoder(w).Encode(values{step, r.flags.batch, r.size, r.flags.seed, r.flags.hook.Hook, r.model.Values()})
	})
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
	if err := ddp.ShareError(ctx, r.group, checkpoint.LoadHook(ctx, r.keeper.Hook, r.keeper.Path, r.first, r.rank)); err != nil {
		return err
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
	var c values
	if err := gob.NewDecoder(file).Decode(&c); err != nil {
		return fmt.Errorf("reading %s: %w", r.flags.checkpoint, err)
	}
	f := r.flags
	if c.Batch != f.batch || c.Ranks != r.size || c.Seed != f.seed || c.Hook != f.hook.Hook {
		return fmt.Errorf("%s is of %d ranks, --batch %d --seed %d --hook %s, which this run must have too", f.checkpoint, c.Ranks, c.Batch, c.Seed, c.Hook)
	}
	own := r.model.Values()
	if len(own) != len(c.Values) {
		return fmt.Errorf("%s has %d parameters and the model has %d", f.checkpoint, len(c.Values), len(own))
	}
	for i, v := range own {
		if len(v) != len(c.Values[i]) {
			return fmt.Errorf("%s: parameter %d has %d elements, and %d in the model", f.checkpoint, i, len(c.Values[i]), len(v))
		}
		copy(v, c.Values[i])
	}
	if setter, ok := r.model.(Setter); ok {
		if err := setter.SetValues(own); err != nil {
			return err
		}
	}
	r.first, r.keeper.Saved = c.Step, c.Step
	return nil
}
