// Package checkpoint keeps a demo's training: what all ranks have alike in a file that rank 0
// writes, and beside it the state of each rank's hook, which differ.
package checkpoint

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"pyhook/c10d"
	"pyhook/internal/wholefile"
	"pyhook/pyhook"
)

// Keeper saves a training on one rank.
type Keeper struct {
	Path  string // of rank 0's file; "": nothing is saved
	Group c10d.ProcessGroup
	Hook  c10d.CommHook
	Saved int // the step of the last checkpoint at Path; 0: none
}

// hookFile has the step in its name, which keeps what is of one moment together when a save is cut
// off.
func hookFile(path string, step, rank int) string {
	return fmt.Sprintf("%s.step%d.hook%d", path, step, rank)
}

// Save saves the hooks' states and then, on rank 0, what write writes, in place of the last
// checkpoint: a collective.
func (k *Keeper) Save(ctx context.Context, step int, write func(io.Writer) error) error {
	if k.Path == "" {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(k.Path), 0o777); err != nil {
		return fmt.Errorf("saving %s: %w", k.Path, err)
	}
	rank := k.Group.Rank()
	if h, ok := k.Hook.(*pyhook.PythonCommHook); ok {
		if err := h.SaveStateFile(ctx, hookFile(k.Path, step, rank)); err != nil {
			return err
		}
	}
	if err := k.Group.Barrier(ctx); err != nil { // all states are there
		return err
	}
	if rank == 0 {
		if err := wholefile.Write(k.Path, wholefile.Public, write); err != nil {
			return fmt.Errorf("saving %s: %w", k.Path, err)
		}
	}
	if err := k.Group.Barrier(ctx); err != nil { // the former states are not needed
		return err
	}
	if k.Saved > 0 {
		_ = os.Remove(hookFile(k.Path, k.Saved, rank)) // of no use, and in nobody's way
	}
	k.Saved = step
	return nil
}

// LoadHook gives a rank's hook the state that it had at a step of the checkpoint at path.
func LoadHook(ctx context.Context, hook c10d.CommHook, path string, step, rank int) error {
	if h, ok := hook.(*pyhook.PythonCommHook); ok {
		return h.LoadStateFile(ctx, hookFile(path, step, rank))
	}
	return nil
}
