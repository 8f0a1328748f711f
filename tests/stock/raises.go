package stock

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"

	"pyhook/c10d"
	"pyhook/ddp"
	"pyhook/job"
	"pyhook/tests/ranks"
)

// Model is what HookRaises trains: a small network of an adapter's and its sync.
type Model struct {
	Reducer *ddp.Reducer
	// Pass does a step as far as ddp.Retry does it again.
	Pass func(step int) error
	// Optimize does the rest of a step; nil: Pass does it.
	Optimize func() error
	Values   func() [][]float32
	Digest   func(context.Context) error
	Close    func()
}

// HookRaises are ranks of which one's Python hook raises in the third and in the sixth try of a step. No
// rank's weights change then, and with Recover, and with Retry, the run ends with the bits of one whose
// hook never raised. newModel makes the same model each time.
func HookRaises(newModel func(context.Context, *job.Job, c10d.CommHook) (*Model, error)) ranks.Func {
	return func(ctx context.Context, _ *ranks.Rank) error {
		j, err := job.Join(ctx, job.Config{Timeout: time.Minute})
		if err != nil {
			return err
		}
		defer j.Close()
		var ends [2][][]float32
		for i, spec := range []string{"allreduce", "../../tests/stock/testdata/raises.py:third_and_sixth"} {
			hook, err := j.Hook(ctx, spec)
			if err != nil {
				return err
			}
			m, err := newModel(ctx, j, hook)
			if err != nil {
				return err
			}
			ends[i], err = m.trainOver(ctx, i == 1)
			m.Close()
			if err != nil {
				return fmt.Errorf("%s: %w", spec, err)
			}
		}
		if !reflect.DeepEqual(ends[0], ends[1]) {
			return fmt.Errorf("the weights at the end are %v without and %v with a hook that raised", ends[0], ends[1])
		}
		return j.Leave(ctx)
	}
}

// trainOver trains 5 steps: in the third the hook may raise, and Recover follows; the others are done
// by Retry.
func (m *Model) trainOver(ctx context.Context, raises bool) ([][]float32, error) {
	optimize := m.Optimize
	if optimize == nil {
		optimize = func() error { return nil }
	}
	tries := 0
	for step := range 5 {
		pass := func() error {
			tries++
			return m.Pass(step)
		}
		if step == 2 && raises {
			before := m.Values()
			if err := pass(); !errors.Is(err, c10d.ErrRaised) {
				return nil, fmt.Errorf("step %d: no ErrRaised: %w", step, err)
			}
			if err := optimize(); err != nil || !reflect.DeepEqual(before, m.Values()) {
				return nil, errors.Join(errors.New("the failed step changed the weights"), err)
			}
			if err := m.Reducer.Recover(ctx); err != nil {
				return nil, err
			}
		}
		if err := errors.Join(ddp.Retry(ctx, m.Reducer, pass), optimize()); err != nil {
			return nil, fmt.Errorf("step %d: %w", step, err)
		}
	}
	if want := map[bool]int{false: 5, true: 7}[raises]; tries != want {
		return nil, fmt.Errorf("%d tries and not %d", tries, want)
	}
	return m.Values(), m.Digest(ctx)
}
