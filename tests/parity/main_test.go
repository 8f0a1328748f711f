// Package parity holds PyTorch's shipped communication hooks, run from Go,
// against the same hooks under PyTorch's own Reducer: on the same ranks, buckets
// and gradients the reduced gradients must be equal bit for bit.
//
// oracle/ is PyTorch's side, trial_test.go and build_test.go are Go's, and
// parity_test.go compares. What came out is kept for each torch in results/ and
// shown in docs/hooks.md:
//
//	PYHOOK_PYTHON=... go test ./tests/parity            # compare; check the committed column
//	PYHOOK_PYTHON=... go test ./tests/parity -update    # compare; write this torch's column
package parity

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"pyhook/pyhook"
	"pyhook/tests/ranks"
)

func TestMain(m *testing.M) {
	ranks.Main(m, map[string]ranks.Func{"trials": runTrials})
}

// batch is what the ranks of one job run: importing torch once serves all.
type batch struct {
	Python string // of the oracle: both sides have one torch
	Path   []string
	Jobs   []job
}

// job is a trial's input.
type job struct {
	Name   string
	File   string // the case
	Inputs string // the oracle's dump
	Out    string
	// ComplexBuckets gives complex gradients in a complex buffer.
	ComplexBuckets bool
}

// facts are found by rank 0 on the way.
type facts struct {
	Torch   string
	Shipped []string // the hooks that this torch has
}

func runTrials(ctx context.Context, r *ranks.Rank) error {
	var todo batch
	if err := r.Args(&todo); err != nil {
		return err
	}
	rt, err := pyhook.Start(ctx, pyhook.Config{Python: todo.Python, Path: todo.Path})
	if err != nil {
		return err
	}
	if r.Rank == 0 {
		if err := reportFacts(rt, r); err != nil {
			return err
		}
	}
	for _, work := range todo.Jobs {
		c, err := loadCase(work.File)
		if err != nil {
			return err
		}
		if r.Rank >= c.World {
			continue
		}
		fmt.Println(time.Now().Format(time.StampMilli), "case", work.Name)
		t := &trial{rt: rt, c: c, work: work, rank: r.Rank}
		done, err := t.run(ctx)
		if err != nil {
			return err
		}
		data, err := json.Marshal(done)
		if err != nil {
			return err
		}
		if err := os.WriteFile(outcomeFile(work.Out, r.Rank), data, 0o600); err != nil {
			return err
		}
	}
	return nil
}

func outcomeFile(dir string, rank int) string {
	return filepath.Join(dir, fmt.Sprintf("outcome.rank%d.json", rank))
}

func reportFacts(rt *pyhook.Runtime, r *ranks.Rank) error {
	shipped, err := rt.Import(context.Background(), "shipped")
	if err != nil {
		return err
	}
	defer shipped.Close()
	list, err := shipped.CallValue("hooks")
	if err != nil {
		return err
	}
	found := facts{Torch: rt.Info().Torch}
	for _, name := range list.([]any) {
		found.Shipped = append(found.Shipped, fmt.Sprint(name))
	}
	return r.Report(found)
}
