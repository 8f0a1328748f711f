package gorgoniaddp_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"gorgonia.org/gorgonia"

	gorgoniaddp "pyhook/adapters/gorgonia"
	"pyhook/c10d"
	"pyhook/ddp"
	"pyhook/job"
	"pyhook/tests/ranks"
)

// TestSync_hookRaises: 2 real ranks, of which one's Python hook raises in a step. No rank's weights
// change, and with Recover, and with Retry, the run ends with the bits of one whose hook never raised.
func TestSync_hookRaises(t *testing.T) {
	ranks.RunOptions(t, ranks.Options{N: 2, Case: "raises", Timeout: 2 * time.Minute})
}

func hookRaises(ctx context.Context, _ *ranks.Rank) error {
	j, err := job.Join(ctx, job.Config{Timeout: time.Minute})
	if err != nil {
		return err
	}
	defer j.Close()
	var ends [2][][]float32
	for i, spec := range []string{"allreduce", "../../tests/stock/testdata/raises.py:third_and_sixth"} {
		if ends[i], err = trainOver(ctx, j, spec, i == 1); err != nil {
			return fmt.Errorf("%s: %w", spec, err)
		}
	}
	if !assert.ObjectsAreEqual(ends[0], ends[1]) {
		return fmt.Errorf("the weights at the end are %v without and %v with a hook that raised", ends[0], ends[1])
	}
	return j.Leave(ctx)
}

// trainOver trains 5 steps: in the third the hook may raise, and Recover follows; the others are done
// by Retry.
func trainOver(ctx context.Context, j *job.Job, spec string, raises bool) ([][]float32, error) {
	hook, err := j.Hook(ctx, spec)
	if err != nil {
		return nil, err
	}
	n, err := newNet[float32](1, true)
	if err != nil {
		return nil, err
	}
	s, err := gorgoniaddp.New(ctx, n.learnables, ddp.Options{Group: j.Group(), Hook: hook, DigestEvery: 1})
	if err != nil {
		return nil, err
	}
	defer s.Close()
	solver := s.Solver(ctx, gorgonia.NewVanillaSolver(gorgonia.WithLearnRate(0.1)))
	tries := 0
	for step := range 5 {
		pass := func() error {
			tries++
			if err := n.run(sample(step, j.Rank())); err != nil {
				return err
			}
			return solver.Step(gorgonia.NodesToValueGrads(n.learnables))
		}
		if step == 2 && raises {
			before := n.values()
			if err := pass(); !errors.Is(err, c10d.ErrRaised) {
				return nil, fmt.Errorf("step %d: no ErrRaised: %w", step, err)
			}
			if !assert.ObjectsAreEqual(before, n.values()) {
				return nil, errors.New("the failed step changed the weights")
			}
			if err := s.Reducer().Recover(ctx); err != nil {
				return nil, err
			}
		}
		if err := ddp.Retry(ctx, s.Reducer(), pass); err != nil {
			return nil, fmt.Errorf("step %d: %w", step, err)
		}
	}
	if want := map[bool]int{false: 5, true: 7}[raises]; tries != want {
		return nil, fmt.Errorf("%d tries and not %d", tries, want)
	}
	return n.values(), s.Digest(ctx)
}
