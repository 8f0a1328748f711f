package worker_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/ddp"
	"pyhook/internal/testutil"
	"pyhook/worker"
)

func TestTheTimelineHasTheCollectivesOfWorkersHooks(t *testing.T) {
	workers := start(t, 2, worker.Config{})
	for _, err := range onRanks(2, func(rank int) error {
		w := workers[rank]
		h, err := w.NewHook(t.Context(), "powersgd", worker.HookConfig{State: worker.State{Spec: "powersgd", Args: powerSGD}})
		if err != nil {
			return err
		}
		defer h.Close()
		params := model()
		record := ddp.NewTimeline(0)
		r, err := ddp.NewReducer(testutil.Soon(t), params, ddp.Options{Group: w.Group(), Hook: h, BucketCapMB: bucketCap, Timeline: record})
		if err != nil {
			return err
		}
		defer r.Close()
		step := func(n int) (collectives int) {
			before := len(record.Spans())
			if assert.NoError(t, backward(r, rank, n, len(params))) {
				_, err := r.Wait(testutil.Soon(t))
				assert.NoError(t, err)
			}
			testutil.Eventually(t, func() bool { // they come by the socket
				collectives = 0
				for _, s := range record.Spans()[before:] {
					if s.Track == "collectives" {
						collectives++
						assert.False(t, s.End.Before(s.Start))
					}
				}
				return collectives >= len(r.Buckets())
			})
			return collectives
		}
		assert.Equal(t, len(r.Buckets()), step(0), "before PowerSGD begins: one all-reduce a bucket")
		step(1)
		step(2)
		if _, err := w.Restart(testutil.Soon(t)); err != nil {
			return err
		}
		step(3)
		return nil
	}) {
		require.NoError(t, err)
	}
}
