package ddp

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/cbridge"
	"pyhook/ddp"
	"pyhook/internal/testutil"
	"pyhook/pyhook"
	"pyhook/tensor"
	"pyhook/tests/deep"
	"pyhook/tests/ranks"
	"pyhook/tests/ranks/rankpython"
)

// planned is a fault of one rank's hook call.
type planned struct {
	Rank, Step, Bucket int
	Kind               string // see testdata/chaos.py
}

type transactionArgs struct {
	Python  string
	Plan    []planned
	Steps   int
	Timeout time.Duration // of collectives
}

type transactionReport struct {
	Weights  []float32
	Failures []string // step, origin, bucket and code of each
	Slowest  time.Duration
}

const transactionParams = 4

// transactionRanks trains with Retry, while the hooks fail as planned.
func transactionRanks(ctx context.Context, rank *ranks.Rank) error {
	var args transactionArgs
	if err := rank.Args(&args); err != nil {
		return err
	}
	rt, err := startRuntime(ctx, args.Python)
	if err != nil {
		return err
	}
	world, err := rt.InitProcessGroup(ctx, pyhook.GroupConfig{Backend: "gloo", Timeout: args.Timeout, InitMethod: rank.Meet})
	if err != nil {
		return err
	}
	plan := [][]any{}
	for _, p := range args.Plan {
		if p.Rank == rank.Rank {
			plan = append(plan, []any{p.Step, p.Bucket, p.Kind})
		}
	}
	hook, err := rt.NewHook(ctx, "testdata/chaos.py:hook", pyhook.HookConfig{State: pyhook.StateSpec{Spec: "testdata/chaos.py:State", Args: map[string]any{"plan": plan}}, Group: world})
	if err != nil {
		return err
	}
	var params []*c10d.Parameter
	for i := range transactionParams {
		params = append(params, &c10d.Parameter{Name: fmt.Sprint("p", i), Shape: []int64{2}, DType: tensor.Float32})
	}
	r, err := ddp.NewReducer(ctx, params, ddp.Options{Group: world, Hook: hook, BucketCapMB: 1e-6, Rollback: true, CheckFinite: true})
	if err != nil {
		return err
	}
	report := transactionReport{Weights: make([]float32, transactionParams)}
	for step := 1; step <= args.Steps; step++ {
		err := ddp.Retry(ctx, r, func() error {
			for i := transactionParams - 1; i >= 0; i-- {
				g, err := tensor.Slice[float32](r.Gradient(i))
				if err != nil {
					return err
				}
				for k := range g {
					g[k] = report.Weights[i] + float32(step*(rank.Rank+1)+i)
				}
				if err := r.Ready(i); err != nil {
					return err
				}
			}
			short, cancel := context.WithTimeout(ctx, args.Timeout/2)
			defer cancel()
			begin := time.Now()
			_, err := r.Wait(short)
			var failed *ddp.StepError
			if errors.As(err, &failed) {
				report.Failures = append(report.Failures, fmt.Sprintf("step %d: rank %d, bucket %d: %s", step, failed.Origin, failed.Bucket, string(failed.Code)))
				report.Slowest = max(report.Slowest, time.Since(begin))
			}
			return err
		})
		if err != nil {
			return err
		}
		for i := range report.Weights {
			g, err := tensor.Slice[float32](r.Gradient(i))
			if err != nil {
				return err
			}
			report.Weights[i] -= g[0] / 64
		}
	}
	if err := world.Barrier(ctx); err != nil {
		return err
	}
	r.Close()
	hook.Close()
	if err := rankpython.Leave(rt, world); err != nil {
		return err
	}
	return rank.Report(report)
}

// TestRetry_chaos: faults at random steps, buckets and ranks of real hooks, whose state counts their
// calls. Every failure is the same one on all ranks, and the weights are bitwise those of the run
// without faults.
func TestRetry_chaos(t *testing.T) {
	interpreter, _, err := cbridge.Discover(t.Context(), "", "torch")
	require.NoError(t, err)
	random := rand.New(rand.NewPCG(20, 26))
	kinds := []string{"raises", "raises late", "callback", "none", "short", "infinite", "loops"}
	for size := 2; size <= 4; size++ {
		t.Run(fmt.Sprintf("%d ranks", size), func(t *testing.T) {
			faults := testutil.Scale{Race: 2}.Of(14)
			args := transactionArgs{Python: interpreter.Executable, Steps: 2 * faults, Timeout: time.Minute}
			runs := []transactionArgs{args}
			args.Timeout = 4 * time.Second // of which a step waits half
			for range deep.Times(t, 1) {
				args.Plan = nil
				for i := range faults {
					args.Plan = append(args.Plan, planned{random.IntN(size), 1 + 2*i, random.IntN(transactionParams), kinds[random.IntN(len(kinds))]})
				}
				runs = append(runs, args)
			}
			reports := transactionsOf(t, size, runs...)
			want := reports[0]
			assert.Empty(t, want[0].Failures)
			for i, got := range reports[1:] {
				for rank := range size {
					assert.Equal(t, want[0].Weights, got[rank].Weights, "rank %d of %v", rank, runs[i+1].Plan)
					assert.Equal(t, got[0].Failures, got[rank].Failures, "rank %d of %v", rank, runs[i+1].Plan)
				}
				assert.Len(t, got[0].Failures, faults)
			}
		})
	}
}

// TestRetry_frozen: a rank is stopped for 5 s, longer than a step may take. The others fail within
// that, the rank itself as soon as it is back, and all go on.
func TestRetry_frozen(t *testing.T) {
	interpreter, _, err := cbridge.Discover(t.Context(), "", "torch")
	require.NoError(t, err)
	args := transactionArgs{Python: interpreter.Executable, Steps: 4, Timeout: 4 * time.Second}
	runs := []transactionArgs{args}
	for frozen := range 2 {
		args.Plan = []planned{{Rank: frozen, Step: 2, Bucket: 1, Kind: "freezes"}}
		runs = append(runs, args)
	}
	reports := transactionsOf(t, 2, runs...)
	want := reports[0]
	for frozen, got := range reports[1:] {
		t.Run(fmt.Sprintf("rank %d", frozen), func(t *testing.T) {
			for rank := range 2 {
				assert.Equal(t, want[0].Weights, got[rank].Weights, "rank %d", rank)
				assert.Len(t, got[rank].Failures, 1)
			}
			assert.Less(t, got[1-frozen].Slowest, args.Timeout/2+3*time.Second)
		})
	}
}

// transactionsOf runs them one after another, and returns each one's reports, by rank.
func transactionsOf(t *testing.T, size int, runs ...transactionArgs) [][]transactionReport {
	t.Helper()
	var all [][]transactionReport
	for _, args := range runs {
		job := ranks.Shared(t, ranks.Options{N: size, Case: "transaction", Args: args})
		reports := make([]transactionReport, size)
		for rank := range reports {
			reports[rank] = ranks.Result[transactionReport](t, job, rank)
		}
		all = append(all, reports)
	}
	return all
}
