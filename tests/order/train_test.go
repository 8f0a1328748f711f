package order_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"pyhook/c10d"
	"pyhook/ddp"
	"pyhook/pyhook"
	"pyhook/tensor"
	"pyhook/tests/ranks"
	"pyhook/tests/ranks/rankpython"
)

// run is what the ranks of one job do.
type run struct {
	Hook   string
	State  string
	Args   map[string]any
	Layers int // Linear(Size, Size) each
	Size   int64
	CapMB  float64
	Order  ddp.Order
	// Plain takes from the hook that its callbacks can be run by the caller: each
	// bucket's future, a real one of gloo's, is waited for before the next call.
	Plain bool
	// List is a state: an empty Python list.
	List bool
	// Whole gives whole numbers, of which the mean of two ranks is exact in any order.
	Whole bool
	Steps int
	// Delays, if above zero, is the seed of the delays: before gradients are
	// ready, different on each rank.
	Delays uint64
}

// outcome is what a rank reports.
type outcome struct {
	SHA       string // of all reduced gradients of all steps
	Order     string
	Buckets   int
	MsPerStep float64
	Err       string // of the hook, if the run failed; without rank
}

// plain hides what else a hook is.
type plain struct{ c10d.CommHook }

// train runs on every rank: several runs in one process, since starting torch
// takes longer than they do.
func train(ctx context.Context, r *ranks.Rank) error {
	var runs []run
	if err := r.Args(&runs); err != nil {
		return err
	}
	rt, err := rankpython.Start(ctx, pyhook.Config{})
	if err != nil {
		return err
	}
	group, err := rt.InitProcessGroup(ctx, pyhook.GroupConfig{Backend: "gloo", Timeout: time.Minute, InitMethod: r.Meet})
	if err != nil {
		return err
	}
	var outcomes []outcome
	for i, one := range runs {
		o, err := one.train(ctx, rt, group)
		var failed *c10d.Error
		if errors.As(err, &failed) { // on both ranks
			if err := group.Renewal().Renew(ctx); err != nil {
				return err
			}
			o, err = &outcome{Err: fmt.Sprintf("bucket %d: %v: %s", failed.Bucket, failed.Code, failed.Detail)}, nil
		}
		if err != nil {
			return fmt.Errorf("run %d, %+v: %w", i, one, err)
		}
		outcomes = append(outcomes, *o)
	}
	if err := group.Barrier(ctx); err != nil {
		return err
	}
	return errors.Join(r.Report(outcomes), rankpython.Leave(rt, group))
}

// values are what gradients are cut from, at a place of their own in each step: random numbers of
// their own would take longer than all else under the race detector.
func (c run) values(random *rand.Rand) []float32 {
	values := make([]float32, c.Size*c.Size+10_007)
	for k := range values {
		values[k] = random.Float32() - 0.5
		if c.Whole {
			values[k] = float32(random.IntN(2000) - 1000)
		}
	}
	return values
}

func (c run) train(ctx context.Context, rt *pyhook.Runtime, group *pyhook.TorchGroup) (*outcome, error) {
	cfg := pyhook.HookConfig{}
	if c.State != "" {
		state, err := rt.NewState(ctx, c.State, c.Args, group)
		if err != nil {
			return nil, err
		}
		defer state.Close()
		cfg.State = state
	}
	if c.List {
		cfg.State = []any{}
	}
	python, err := rt.NewHook(ctx, c.Hook, cfg)
	if err != nil {
		return nil, err
	}
	defer python.Close()
	var hook c10d.CommHook = python
	if c.Plain {
		hook = plain{python}
	}
	var params []*c10d.Parameter
	for i := range c.Layers {
		params = append(params,
			&c10d.Parameter{Name: fmt.Sprintf("layer%d.weight", i), Shape: []int64{c.Size, c.Size}, DType: tensor.Float32},
			&c10d.Parameter{Name: fmt.Sprintf("layer%d.bias", i), Shape: []int64{c.Size}, DType: tensor.Float32})
	}
	reducer, err := ddp.NewReducer(ctx, params, ddp.Options{Group: group, Hook: hook, BucketCapMB: c.CapMB, Order: c.Order})
	if err != nil {
		return nil, err
	}
	defer reducer.Close()
	sum := sha256.New()
	random := rand.New(rand.NewPCG(1, uint64(group.Rank())))
	values := c.values(random)
	delays := rand.New(rand.NewPCG(c.Delays, uint64(group.Rank())))
	start := time.Now()
	for step := range c.Steps {
		for i := len(params) - 1; i >= 0; i-- {
			grad, err := tensor.Slice[float32](reducer.Gradient(i))
			if err != nil {
				return nil, err
			}
			copy(grad, values[random.IntN(len(values)-len(grad)+1):])
			if c.Delays > 0 && delays.IntN(3) == 0 {
				time.Sleep(time.Duration(delays.IntN(4000)) * time.Microsecond)
			}
			if err := reducer.Ready(i); err != nil {
				return nil, err
			}
		}
		if _, err := reducer.Wait(ctx); err != nil {
			return nil, fmt.Errorf("step %d: %w", step, err)
		}
		for i := range params {
			bytes, err := tensor.RawBytes(reducer.Gradient(i))
			if err != nil {
				return nil, err
			}
			sum.Write(bytes)
		}
	}
	elapsed := time.Since(start)
	return &outcome{SHA: hex.EncodeToString(sum.Sum(nil)), Order: reducer.Order().String(), Buckets: len(reducer.Buckets()),
		MsPerStep: float64(elapsed) / float64(time.Millisecond) / float64(c.Steps)}, nil
}
