package ddp_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d/hooks"
	"pyhook/ddp"
	"pyhook/internal/testutil"
	"pyhook/internal/timeline"
	"pyhook/pyhook"
)

// named returns the spans of a track with that name.
func named(spans []timeline.Span, track, name string) []timeline.Span {
	return slices.DeleteFunc(slices.Clone(spans), func(s timeline.Span) bool { return s.Track != track || s.Name != name })
}

// nest fails if two spans of a track overlap without one being in the other.
func nest(t *testing.T, spans []timeline.Span) {
	t.Helper()
	for i, a := range spans {
		for _, b := range spans[i+1:] { // starts no earlier
			if a.Track == b.Track && !a.Async && b.Start.Before(a.End) {
				assert.False(t, b.End.After(a.End), "on %s: %s crosses %s", a.Track, b.Name, a.Name)
			}
		}
	}
}

// A bucket's parts follow each other, in each step.
func TestTimelineHasEachBucketsParts(t *testing.T) {
	for _, order := range []ddp.Order{ddp.OrderSerial, ddp.OrderOverlapped} {
		t.Run(order.String(), func(t *testing.T) {
			record := ddp.NewTimeline(0)
			group := memoryGroups(1)[0]
			group.delay = func() time.Duration { return time.Millisecond }
			r := reducer(t, scalars(4), ddp.Options{Group: group, Hook: &hooks.AllReduceCommHook{Group: group}, BucketCapMB: twoFloats, Order: order, Timeline: record})
			const steps = 3
			for range steps {
				setAll(t, r, 4)
				_, err := r.Wait(testutil.Soon(t))
				require.NoError(t, err)
			}
			spans := record.Spans()
			nest(t, spans)
			assert.Len(t, named(spans, "trainer", "Wait"), steps)
			for bucket := range 2 {
				track := fmt.Sprintf("bucket %d", bucket)
				parts := [][]timeline.Span{
					named(spans, track, "compute"), named(spans, "hooks", "call, "+track),
					named(spans, track, "in flight"), named(spans, track, "copy-back"),
				}
				for step := range steps {
					for i, part := range parts {
						require.Len(t, part, steps)
						s := part[step]
						assert.False(t, s.End.Before(s.Start))
						assert.Equal(t, bucket, s.Args["bucket"])
						if i > 0 {
							assert.False(t, s.Start.Before(parts[i-1][step].End), "%s of step %d", s.Name, step)
						}
					}
					assert.GreaterOrEqual(t, parts[2][step].End.Sub(parts[1][step].Start), time.Millisecond, "the collective takes that long")
				}
			}
		})
	}
}

func TestTimelineHasThePythonHooksCollectivesAndCallbacks(t *testing.T) {
	noLeaks(t, func() {
		state, err := rt.NewState(t.Context(), "powersgd", map[string]any{"matrix_approximation_rank": 1, "start_powerSGD_iter": 2}, world)
		require.NoError(t, err)
		defer state.Close()
		h, err := rt.NewHook(t.Context(), "powersgd", pyhook.HookConfig{State: state})
		require.NoError(t, err)
		defer h.Close()
		params := parameters([]int64{8, 8}, []int64{8, 8})
		defer closeParameters(params)
		record := ddp.NewTimeline(0)
		r, err := ddp.NewReducer(testutil.Soon(t), params, ddp.Options{Group: world, Hook: h, BucketCapMB: tiny, Timeline: record})
		require.NoError(t, err)
		defer r.Close()
		for step := range 3 {
			began := len(record.Spans())
			setAll(t, r, 2)
			_, err := r.Wait(testutil.Soon(t))
			require.NoError(t, err)
			spans := record.Spans()[began:]
			nest(t, spans)
			for bucket := range 2 {
				track := fmt.Sprintf("bucket %d", bucket)
				assert.NotEmpty(t, named(spans, "hooks", "callbacks, "+track))
				wanted := 1 // not yet compressed: one all-reduce
				if step == 2 {
					wanted = 3 // what is not compressed (nothing), P and Q
				}
				// A collective is told of by the thread that completed it, perhaps after
				// it has woken who waits for it.
				var collectives []timeline.Span
				testutil.Eventually(t, func() bool {
					collectives = named(record.Spans()[began:], "collectives", track)
					return len(collectives) == wanted
				}, "%d collectives of %s", wanted, track)
				if step < 2 {
					assert.EqualValues(t, 8*8*4, collectives[0].Args["bytes"])
				} else {
					total := int64(0)
					for _, c := range collectives {
						total += c.Args["bytes"].(int64)
					}
					assert.EqualValues(t, (8+8)*4, total)
				}
				for _, c := range collectives {
					assert.True(t, c.Async)
					assert.WithinRange(t, c.Start, firstOf(spans), time.Now(), "Python's clock is Go's")
				}
			}
		}
	})
}

func firstOf(spans []timeline.Span) time.Time { return spans[0].Start.Add(-time.Millisecond).Round(0) }

// A failed step is drawn as far as it came.
func TestTimelineOfAFailedStep(t *testing.T) {
	record := ddp.NewTimeline(0)
	group := memoryGroups(1)[0]
	r := reducer(t, scalars(4), ddp.Options{Group: group, Hook: &hooks.AllReduceCommHook{Group: group}, BucketCapMB: twoFloats, Timeline: record})
	group.fail = errors.New("no network")
	setAll(t, r, 4)
	_, err := r.Wait(testutil.Soon(t))
	require.ErrorContains(t, err, "no network")
	spans := record.Spans()
	assert.Len(t, named(spans, "hooks", "call, bucket 0"), 1)
	for _, s := range spans {
		assert.False(t, strings.Contains(s.Name, "copy-back"), "%v", s)
	}
	group.fail = nil
	stepWorks(t, r, 4)
	assert.Len(t, named(record.Spans(), "bucket 0", "copy-back"), 1)
}
