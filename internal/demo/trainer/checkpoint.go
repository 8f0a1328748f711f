package trainer

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"

	"pyhook/internal/demo/checkpoint"
	"pyhook/internal/demo/mlp"
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

// save is a collective.
func (r *run) save(ctx context.Context, step int) error {
	return r.keeper.Save(ctx, step, func(w io.Writer) (err error) {
		c := r.network.Checkpoint(r.sgd, step)
		if c.Meta, err = json.Marshal(r.meta()); err != nil {
			return err
		}
		return c.Save(w)
	})
}

func (r *run) restoreHook(ctx context.Context) error {
	if r.cfg.Resume == "" {
		return nil
	}
	return checkpoint.LoadHook(ctx, r.keeper.Hook, r.cfg.Resume, r.first, r.world.Rank)
}

// restore reads the weights and returns the step to go on with.
func (r *run) restore() (int, error) {
	path := r.cfg.Resume
	file, err := os.Open(path)
	if err != nil {
		return 0, fmt.Errorf("--resume: %w", err)
	}
	defer file.Close()
	c, err := mlp.Load(file)
	if err != nil {
		return 0, fmt.Errorf("--resume %s: %w", path, err)
	}
	var m meta
	if err := json.Unmarshal(c.Meta, &m); err != nil {
		return 0, fmt.Errorf("--resume %s: its description cannot be read: %w", path, err)
	}
	if m != r.meta() {
		return 0, fmt.Errorf("--resume %s: it was trained with --hook %s -n %d --seed %d --batch %d --bucket-cap-mb %g, which this run must have too",
			path, m.Hook, m.Ranks, m.Seed, m.Batch, m.BucketCapMB)
	}
	if err := c.Restore(r.network, r.sgd); err != nil {
		return 0, fmt.Errorf("--resume %s: %w", path, err)
	}
	return c.Step, nil
}
