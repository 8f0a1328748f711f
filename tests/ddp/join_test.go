package ddp

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"

	"pyhook/c10d"
	"pyhook/cbridge"
	"pyhook/ddp"
	"pyhook/tensor"
	"pyhook/tests/ranks"
	"pyhook/tests/ranks/rankpython"
)

// joinReport is what a rank ends with.
type joinReport struct {
	Last    int
	Weights []float32
}

// joinRanks trains with PowerSGD for 3 steps on rank 0 and 6 on rank 1, and ends
// with the weights of the rank that had data last.
func joinRanks(ctx context.Context, rank *ranks.Rank) error {
	var python string
	rt, world, err := startRank(ctx, rank, &python, &python)
	if err != nil {
		return err
	}
	hook, closeHook, err := newHook(rt, world, "powersgd")
	if err != nil {
		return err
	}
	defer closeHook()
	var params []*c10d.Parameter
	weights := make([]float32, 3*64)
	for i := range 3 {
		data, err := tensor.FromSlice(weights[64*i:64*(i+1)], 8, 8)
		if err != nil {
			return err
		}
		params = append(params, &c10d.Parameter{Name: fmt.Sprint("p", i), Shape: []int64{8, 8}, DType: tensor.Float32, Data: data})
	}
	r, err := ddp.NewReducer(ctx, params, ddp.Options{Group: world, Hook: hook, Join: true, Layout: ddp.LayoutRebuilt, BucketCapMB: 1e-5})
	if err != nil {
		return err
	}
	for step := range 3 * (rank.Rank + 1) {
		if err := joinStep(ctx, r, rank.Rank, step, weights); err != nil {
			return err
		}
	}
	last, err := r.Join(ctx)
	if err != nil {
		return err
	}
	if err := ddp.BroadcastParametersFrom(ctx, world, last, params); err != nil {
		return err
	}
	r.Close()
	return errors.Join(rank.Report(joinReport{last, weights}), rankpython.Leave(rt, world))
}

// joinStep is a step of three parameters with their weights in a row.
func joinStep(ctx context.Context, r *ddp.Reducer, rank, step int, weights []float32) error {
	for i := range 3 {
		g, err := tensor.Slice[float32](r.Gradient(i))
		if err != nil {
			return err
		}
		for k := range g {
			g[k] = float32((rank+1)*(k%7) - step*i)
		}
		if err := r.Ready(i); err != nil {
			return err
		}
	}
	if _, err := r.Wait(ctx); err != nil {
		return err
	}
	for i := range 3 {
		g, err := tensor.Slice[float32](r.Gradient(i))
		if err != nil {
			return err
		}
		for k := range g {
			weights[64*i+k] -= 0.1 * g[k]
		}
	}
	return nil
}

func TestUnevenInputsWithPowerSGDOnRealRanks(t *testing.T) {
	interpreter, _, err := cbridge.Discover(t.Context(), "", "torch")
	assert.NoError(t, err)
	job := ranks.Shared(t, ranks.Options{N: 2, Case: "join", Args: interpreter.Executable})
	first, second := ranks.Result[joinReport](t, job, 0), ranks.Result[joinReport](t, job, 1)
	assert.Equal(t, 1, second.Last)
	assert.Equal(t, second, first)
	assert.NotZero(t, first.Weights[1])
}
