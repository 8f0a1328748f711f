package trainer

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"pyhook/internal/demo/mlp"
)

// meta is what a checkpoint must agree with a run on, so that going on gives
// what not stopping would have given.
type meta struct {
	Seed  uint64 `json:"seed"`
	Batch int    `json:"batch"`
}

// save writes the checkpoint of rank 0 whole or not at all.
func (r *run) save(step int) error {
	if r.cfg.Save == "" || r.world.Rank != 0 {
		return nil
	}
	fail := func(err error) error { return fmt.Errorf("saving %s: %w", r.cfg.Save, err) }
	if err := os.MkdirAll(filepath.Dir(r.cfg.Save), 0o777); err != nil {
		return fail(err)
	}
	file, err := os.CreateTemp(filepath.Dir(r.cfg.Save), ".checkpoint-*")
	if err != nil {
		return fail(err)
	}
	defer os.Remove(file.Name())
	checkpoint := r.network.Checkpoint(r.sgd, uint64(step))
	if checkpoint.Meta, err = json.Marshal(meta{r.cfg.Seed, r.cfg.Batch}); err == nil {
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

// restore reads a checkpoint and returns the step to go on with.
func restore(path string, cfg Config, network *mlp.Network, sgd *mlp.SGD) (int, error) {
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
	if m.Seed != cfg.Seed || m.Batch != cfg.Batch {
		return 0, fmt.Errorf("--resume %s: it was trained with --seed %d --batch %d, and this run has --seed %d --batch %d", path, m.Seed, m.Batch, cfg.Seed, cfg.Batch)
	}
	if err := checkpoint.Restore(network, sgd); err != nil {
		return 0, fmt.Errorf("--resume %s: %w", path, err)
	}
	return int(checkpoint.Step), nil
}
