package gorgoniaddp_test

import (
	"context"
	"testing"
	"time"

	"gorgonia.org/gorgonia"

	gorgoniaddp "pyhook/adapters/gorgonia"
	"pyhook/c10d"
	"pyhook/ddp"
	"pyhook/job"
	"pyhook/tests/ranks"
	"pyhook/tests/stock"
)

func TestSync_hookRaises(t *testing.T) {
	ranks.RunOptions(t, ranks.Options{N: 2, Case: "raises", Timeout: 2 * time.Minute})
}

func newModel(ctx context.Context, j *job.Job, hook c10d.CommHook) (*stock.Model, error) {
	n, err := newNet[float32](1, true)
	if err != nil {
		return nil, err
	}
	s, err := gorgoniaddp.New(ctx, n.learnables, ddp.Options{Group: j.Group(), Hook: hook, DigestEvery: 1})
	if err != nil {
		return nil, err
	}
	solver := s.Solver(ctx, gorgonia.NewVanillaSolver(gorgonia.WithLearnRate(0.1)))
	return &stock.Model{
		Reducer: s.Reducer(),
		Pass: func(step int) error {
			if err := n.run(sample(step, j.Rank())); err != nil {
				return err
			}
			return solver.Step(gorgonia.NodesToValueGrads(n.learnables))
		},
		Values: n.values,
		Digest: s.Digest,
		Close:  s.Close,
	}, nil
}
