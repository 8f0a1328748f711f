package ddp_test

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"pyhook/ddp"
	"pyhook/internal/testutil"
)

// TestTheReducersOwnCollectivesMayFail: those that it adds to the hook's.
func TestTheReducersOwnCollectivesMayFail(t *testing.T) {
	for _, test := range []struct {
		opts ddp.Options
		want string
	}{
		{ddp.Options{Unused: ddp.UnusedFind}, "asking which parameters the ranks used: boom"},
		{ddp.Options{Join: true}, "asking which ranks have data: boom"},
		{ddp.Options{Layout: ddp.LayoutRebuilt}, "the ranks did not agree on the buckets of the next steps: boom"},
	} {
		t.Run(test.want, func(t *testing.T) {
			noLeaks(t, func() {
				g := memoryGroups(1)[0]
				test.opts.Group, test.opts.Hook = g, hook{run: identity}
				r, err := ddp.NewReducer(testutil.Soon(t), scalars(2), test.opts)
				require.NoError(t, err)
				defer r.Close()
				g.mu.Lock()
				g.fail = errors.New("boom")
				g.mu.Unlock()
				setAll(t, r, 2)
				_, err = r.Wait(testutil.Soon(t))
				require.ErrorIs(t, err, g.fail)
				require.ErrorContains(t, err, test.want)
				var step *ddp.StepError
				require.ErrorAs(t, err, &step)
				g.mu.Lock()
				g.fail = nil
				g.mu.Unlock()
				stepWorks(t, r, 2)
			})
		})
	}
}

// Whether Close comes before the collective or while it waits for another rank.
func TestCloseEndsTheReducersOwnCollectives(t *testing.T) {
	for _, opts := range []ddp.Options{{Unused: ddp.UnusedFind}, {Join: true}, {Layout: ddp.LayoutRebuilt}} {
		for _, begun := range []bool{false, true} {
			noLeaks(t, func() {
				group := memoryGroups(2)[0] // the other rank never comes
				opts.Group, opts.Hook, opts.SkipVerify = group, hook{run: identity}, true
				r, err := ddp.NewReducer(testutil.Soon(t), scalars(2), opts)
				require.NoError(t, err)
				setAll(t, r, 2)
				done := make(chan error)
				go func() {
					_, err := r.Wait(testutil.Soon(t))
					done <- err
				}()
				if begun {
					testutil.Eventually(t, func() bool { return group.waiting() > 0 })
				}
				r.Close()
				require.ErrorIs(t, <-done, ddp.ErrClosed)
				group.abandon() // until then the collective may write to its memory, which stays
			})
		}
	}
}
