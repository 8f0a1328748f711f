package trainer

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"pyhook/internal/demo/mlp"
	"pyhook/pyhook"
)

// meta is what a checkpoint must agree with a run on, so that going on gives
// what not stopping would have given.
type meta struct {
	Seed        uint64  `json:"seed"`
	Batch       int     `json:"batch"`
	Hook        string  `json:"hook"`
	Ranks       int     `json:"ranks"`
	BucketCapMB float64 `json:"bucket_cap_mb"` // PowerSGD's error feedback is kept by bucket
}

func (r *run) meta() meta {
	return meta{r.cfg.Seed, r.cfg.Batch, r.cfg.Hook.Hook, r.world.Size, r.cfg.BucketCapMB}
}

// A hook's state differs from rank to rank, so each rank has a file of its own.
// The step in the name keeps weights and states of one moment together when a
// save is cut off.
func (r *run) hookFile(path string, step int) string {
	return fmt.Sprintf("%s.step%d.hook%d", path, step, r.world.Rank)
}

// save writes the state of each rank's hook, and then, on rank 0, the weights:
// whole or not at all.
func (r *run) save(ctx context.Context, step int) error {
	if r.cfg.Save == "" {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(r.cfg.Save), 0o777); err != nil {
		return fmt.Errorf("saving %s: %w", r.cfg.Save, err)
	}
	if h, ok := r.hook.(*pyhook.PythonCommHook); ok {
		if err := h.SaveStateFile(ctx, r.hookFile(r.cfg.Save, step)); err != nil {
			return err
		}
	}
	if err := r.group.Barrier(ctx); err != nil { // all states are there
		return err
	}
	if r.world.Rank == 0 {
		if err := r.saveWeights(step); err != nil {
			return err
		}
	}
	if err := r.group.Barrier(ctx); err != nil { // the former ones are not needed
		return err
	}
	if r.saved > 0 {
		_ = os.Remove(r.hookFile(r.cfg.Save, r.saved))
	}
	r.saved = step
	return nil
}

func (r *run) restoreHook(ctx context.Context) error {
	h, ok := r.hook.(*pyhook.PythonCommHook)
	if r.cfg.Resume == "" || !ok {
		return nil
	}
	return h.LoadStateFile(ctx, r.hookFile(r.cfg.Resume, r.first))
}

// saveWeights is rank 0's.
func (r *run) saveWeights(step int) error {
	fail := func(err error) error { return fmt.Errorf("saving %s: %w", r.cfg.Save, err) }
	file, err := os.CreateTemp(filepath.Dir(r.cfg.Save), ".checkpoint-*")
	if err != nil {
		return fail(err)
	}
	defer os.Remove(file.Name())
	checkpoint := r.network.Checkpoint(r.sgd, step)
	if checkpoint.Meta, err = json.Marshal(r.meta()); err == nil {
		err = checkpoint.Save(file)
	}
	if err == nil {
		err = file.Sync()
	}
	if closeErr := file.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(file.Name(), r.cfg.Save)
	}
	if err != nil {
		return fail(err)
	}
	return nil
}

// restore reads the weights and returns the step to go on with.
func (r *run) restore() (int, error) {
	path := r.cfg.Resume
	file, err := os.Open(path)
	if err != nil {
		return 0, fmt.Errorf("--resume: %w", err)
	}
	defer file.Close()
	checkpoint, err := mlp.Load(file)
	if err != nil {
		return 0, fmt.Errorf("--resume %s: %w", path, err)
	}
	var m meta
	if err := json.Unmarshal(checkpoint.Meta, &m); err != nil {
		return 0, fmt.Errorf("--resume %s: its description cannot be read: %w", path, err)
	}
	if m != r.meta() {
		return 0, fmt.Errorf("--resume %s: it was trained with --hook %s -n %d --seed %d --batch %d --bucket-cap-mb %g, which this run must have too",
			path, m.Hook, m.Ranks, m.Seed, m.Batch, m.BucketCapMB)
	}
	if err := checkpoint.Restore(r.network, r.sgd); err != nil {
		return 0, fmt.Errorf("--resume %s: %w", path, err)
	}
	return checkpoint.Step, nil
}
