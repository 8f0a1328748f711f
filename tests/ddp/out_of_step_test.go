package ddp

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/cbridge"
	"pyhook/ddp"
	"pyhook/pyhook"
	"pyhook/tensor"
	"pyhook/tests/ranks"
	"pyhook/tests/ranks/rankpython"
)

type outOfStepArgs struct {
	Python  string
	Sizes   []int64 // of the parameters, each in a bucket of its own
	Recover bool    // after a step that failed
}

// outOfStepReport is what each step ended with on a rank.
type outOfStepReport struct {
	Kinds []string // "right", "wrong", or the error's
	Texts []string
}

// outOfStepRanks goes on after a failed step, with or without Recover: rank 1's hook raises in bucket
// 1 of the second step.
func outOfStepRanks(ctx context.Context, rank *ranks.Rank) error {
	var args outOfStepArgs
	rt, world, err := startRank(ctx, rank, &args, &args.Python)
	if err != nil {
		return err
	}
	state, err := rt.NewState(ctx, "testdata/raises.py:State", map[string]any{"rank": 1, "bucket": 1, "step": 2}, nil)
	if err != nil {
		return err
	}
	defer state.Close()
	hook, err := rt.NewHook(ctx, "testdata/raises.py:hook", pyhook.HookConfig{State: state})
	if err != nil {
		return err
	}
	var params []*c10d.Parameter
	for i, n := range args.Sizes {
		params = append(params, &c10d.Parameter{Name: fmt.Sprint("p", i), Shape: []int64{n}, DType: tensor.Float32})
	}
	r, err := ddp.NewReducer(ctx, params, ddp.Options{Group: world, Hook: hook, BucketCapMB: 1e-6, Rollback: true})
	if err != nil {
		return err
	}
	var report outOfStepReport
	for step := range 5 {
		kind, text := outOfStepStep(ctx, r, rank.Rank, step, len(params))
		report.Kinds, report.Texts = append(report.Kinds, kind), append(report.Texts, text)
		if kind == "raised" && args.Recover {
			if err := r.Recover(ctx); err != nil {
				return err
			}
		}
	}
	if !args.Recover { // for the next case in this process
		if err := r.Recover(ctx); err != nil {
			return err
		}
	}
	r.Close()
	hook.Close()
	return errors.Join(rank.Report(report), rankpython.Leave(rt, world))
}

// outOfStepStep is a step in which parameter i's gradients sum up to 100*step + 3*i + 1.
func outOfStepStep(ctx context.Context, r *ddp.Reducer, rank, step, params int) (kind, text string) {
	err := func() error {
		for i := params - 1; i >= 0; i-- {
			g, err := tensor.Slice[float32](r.Gradient(i))
			if err != nil {
				return err
			}
			for k := range g {
				g[k] = float32(50*step + i + rank*(i+1))
			}
			if err := r.Ready(i); err != nil {
				return err
			}
		}
		_, err := r.Wait(ctx)
		return err
	}()
	switch {
	case errors.Is(err, c10d.ErrOutOfStep):
		return "out of step", err.Error()
	case errors.Is(err, c10d.ErrPeer):
		return "peer", err.Error()
	case errors.Is(err, c10d.ErrRaised):
		return "raised", err.Error()
	case err != nil:
		return "error", err.Error()
	}
	for i := range params {
		g, err := tensor.Slice[float32](r.Gradient(i))
		if err != nil {
			return "error", err.Error()
		}
		for _, x := range g {
			if x != float32(100*step+3*i+1) {
				return "wrong", fmt.Sprintf("parameter %d is %v", i, g)
			}
		}
	}
	return "right", ""
}

// TestReducer_OutOfStep: after a hook that raised on one rank only, every rank has the same error,
// and no later step gives a number, whose collectives would meet those of the failed step, until
// Recover.
func TestReducer_OutOfStep(t *testing.T) {
	interpreter, _, err := cbridge.Discover(t.Context(), "", "torch")
	require.NoError(t, err)
	for name, sizes := range map[string][]int64{"equal buckets": {3, 3, 3}, "unequal buckets": {2, 3, 5}} {
		t.Run(name, func(t *testing.T) {
			job := ranks.Shared(t, ranks.Options{N: 2, Case: "out-of-step", Args: outOfStepArgs{interpreter.Executable, sizes, false}})
			for rank := range 2 {
				report := ranks.Result[outOfStepReport](t, job, rank)
				assert.Equal(t, []string{"right", "raised", "out of step", "out of step", "out of step"}, report.Kinds, "%v", report.Texts)
				assert.Contains(t, report.Texts[2], fmt.Sprintf("ddp, rank %d: this rank is out of step with the others: the last step failed", rank))
				assert.Contains(t, report.Texts[2], "hook testdata/raises.py:hook, rank 1, bucket 1: the hook raised an exception: ValueError: only here")
				assert.Contains(t, report.Texts[2], "\nhint: call Reducer.Recover on every rank")
			}
		})
		t.Run("recovered, "+name, func(t *testing.T) {
			job := ranks.Shared(t, ranks.Options{N: 2, Case: "out-of-step", Args: outOfStepArgs{interpreter.Executable, sizes, true}})
			for rank := range 2 {
				report := ranks.Result[outOfStepReport](t, job, rank)
				assert.Equal(t, []string{"right", "raised", "right", "right", "right"}, report.Kinds, "%v", report.Texts)
			}
		})
	}
}
