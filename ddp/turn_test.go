package ddp_test

import (
	"errors"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/c10d/transport/memgroup"
	"pyhook/ddp"
	"pyhook/internal/testutil"
)

// twoReducers are over one group.
func twoReducers(t *testing.T, group c10d.ProcessGroup) (a, b *ddp.Reducer) {
	for _, r := range []**ddp.Reducer{&a, &b} {
		made, err := ddp.NewReducer(testutil.Soon(t), scalars(3), ddp.Options{Group: group})
		require.NoError(t, err)
		t.Cleanup(made.Close)
		*r = made
	}
	return a, b
}

func markAll(r *ddp.Reducer) (err error) {
	for i := range scalars(3) {
		err = errors.Join(err, r.Ready(i))
	}
	return err
}

func TestReducer_otherStep(t *testing.T) {
	groups := memoryGroups(2)
	t.Run("a mark while another Reducer's step is under way is refused, and nothing else", func(t *testing.T) {
		onRanks(2, func(rank int) {
			a, b := twoReducers(t, groups[rank])
			assert.NoError(t, b.NoSync(func() error { return a.Ready(0) }), "a pass without a reduction is no step")
			for _, err := range []error{b.Ready(1), b.ReadyFrom(1, tensorOf(t, 1)), b.MarkUnused(1)} {
				var parameter *ddp.ParameterError
				require.ErrorAs(t, err, &parameter)
				assert.ErrorIs(t, err, ddp.ErrOtherStep)
				assert.Equal(t, []string{scalars(3)[1].Name}, parameter.Names)
				assert.Equal(t, rank, parameter.Rank)
			}
			assert.NoError(t, errors.Join(a.Ready(1), a.Ready(2)))
			_, err := a.Wait(testutil.Soon(t))
			assert.NoError(t, err)
			assert.NoError(t, markAll(b))
			_, err = b.Wait(testutil.Soon(t))
			assert.NoError(t, err)
		})
	})
	t.Run("Close in a step lets the other go on, as far as the group does", func(t *testing.T) {
		onRanks(2, func(rank int) {
			a, b := twoReducers(t, groups[rank])
			assert.NoError(t, a.Ready(0))
			a.Close()
			assert.NotErrorIs(t, b.Ready(0), ddp.ErrOtherStep)
		})
	})
	t.Run("a world of one has no collectives to mix up", func(t *testing.T) {
		a, b := twoReducers(t, memoryGroups(1)[0])
		require.NoError(t, errors.Join(a.Ready(0), markAll(b)))
		_, err := b.Wait(testutil.Soon(t))
		require.NoError(t, err)
	})
}

// Goroutines that train beside each other over one group: a step is right, or an error.
func TestReducer_otherStep_atOnce(t *testing.T) {
	for range 30 {
		for _, err := range memgroup.Run(2, func(group *memgroup.Group) error {
			a, b := twoReducers(t, group)
			var trainers sync.WaitGroup
			for i, r := range []*ddp.Reducer{a, b} {
				trainers.Go(func() {
					for k := range scalars(3) {
						for e := range floats(r.Gradient(k)) {
							floats(r.Gradient(k))[e] = float32(100*i + group.Rank())
						}
					}
					err := markAll(r)
					if err == nil {
						_, err = r.Wait(testutil.Soon(t))
					}
					if err != nil {
						r.Close() // the other rank may be in this step
						return
					}
					for k := range scalars(3) {
						for _, got := range floats(r.Gradient(k)) {
							assert.InDelta(t, float32(100*i)+0.5, got, 0, "the mean of both ranks' gradients of this Reducer")
						}
					}
				})
			}
			trainers.Wait()
			return nil
		}) {
			assert.NoError(t, err)
		}
	}
}
