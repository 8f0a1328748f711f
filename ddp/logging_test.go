package ddp_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/ddp"
	"pyhook/internal/testutil"
	"pyhook/tensor"
)

func TestLoggingDataOfStepsWhoseTimesAreKnown(t *testing.T) {
	const pause = 30 * time.Millisecond
	gate := newGate()
	r := reducer(t, scalars(2), ddp.Options{Hook: gate, BucketCapMB: tiny, Order: ddp.OrderOverlapped})
	before := r.LoggingData()
	assert.Equal(t, []int64{4, 4}, before.BucketSizes)
	assert.Equal(t, []string{"float32"}, before.DTypes)
	assert.Equal(t, "*ddp_test.gate", before.CommHook)
	assert.Zero(t, before.Iteration)
	assert.Zero(t, before.BackwardCommTimeEnd)

	// Compute from 0 to 2, communication from 1 to 3 pauses.
	start := time.Now()
	set(t, r, 0, 1)
	time.Sleep(pause)
	set(t, r, 1, 1) // bucket 0
	gate.called(t, 0)
	time.Sleep(pause)
	assert.Zero(t, r.LoggingData().Iteration)
	gate.called(t, 1)
	value := tensorOf(t, 5)
	gate.complete(0, value, nil)
	gate.complete(1, value, nil)
	_, err := r.Wait(testutil.Soon(t))
	require.NoError(t, err)
	all := time.Since(start)

	l := r.LoggingData()
	assert.Equal(t, 1, l.Iteration)
	assert.True(t, l.GradientAsBucketView)
	assert.GreaterOrEqual(t, l.BackwardComputeTime, pause.Nanoseconds())
	assert.GreaterOrEqual(t, l.BackwardCommTime, pause.Nanoseconds())
	assert.LessOrEqual(t, l.BackwardComputeTime+l.BackwardCommTime, all.Nanoseconds()+l.BackwardComputeCommOverlapTime)
	assert.Less(t, l.BackwardComputeCommOverlapTime, pause.Nanoseconds(), "no mark is made during the communication")
	assert.Equal(t, l.BackwardCommTime, l.AvgBackwardCommTime)
	assert.Equal(t, l.BackwardComputeTime, l.BackwardComputeTimeEnd-l.BackwardComputeTimeStart)
	assert.WithinDuration(t, start, time.Unix(0, l.BackwardComputeTimeStart), time.Second)
}

func TestLoggingDataOfCommunicationDuringTheBackwardPass(t *testing.T) {
	const pause = 30 * time.Millisecond
	r := reducer(t, scalars(2), ddp.Options{Hook: hook{run: identity}, BucketCapMB: tiny})
	slow := newGate()
	r2 := reducer(t, scalars(2), ddp.Options{Hook: slow, BucketCapMB: tiny, Order: ddp.OrderOverlapped})
	set(t, r2, 1, 1)
	slow.called(t, 0)
	time.Sleep(pause)
	set(t, r2, 0, 1)
	slow.called(t, 1)
	slow.complete(0, tensorOf(t, 1), nil)
	slow.complete(1, tensorOf(t, 1), nil)
	_, err := r2.Wait(testutil.Soon(t))
	require.NoError(t, err)
	assert.GreaterOrEqual(t, r2.LoggingData().BackwardComputeCommOverlapTime, pause.Nanoseconds())

	for range 3 {
		stepWorks(t, r, 2)
	}
	l := r.LoggingData()
	assert.Equal(t, 3, l.Iteration)
	assert.Positive(t, l.AvgBackwardComputeTime)
}

func TestLoggingDataOfAFailedStep(t *testing.T) {
	r := reducer(t, scalars(2), ddp.Options{Hook: failing(t, "future"), BucketCapMB: tiny})
	setAll(t, r, 2)
	_, err := r.Wait(testutil.Soon(t))
	require.Error(t, err)
	l := r.LoggingData()
	assert.True(t, l.HasError)
	assert.Equal(t, err.Error(), l.Error)
	assert.Zero(t, l.Iteration)
	stepWorks(t, r, 2)
	assert.Equal(t, 1, r.LoggingData().Iteration)
}

func TestLoggingDataHasPyTorchsNames(t *testing.T) {
	h := python(t, "allreduce", nil)
	params := scalars(3)
	defer closeParameters(params)
	params[2].DType = tensor.Float64
	r := reducer(t, params, ddp.Options{Group: world, Hook: h, Layout: ddp.LayoutRebuilt, Unused: ddp.UnusedFind, Join: true})
	require.NoError(t, r.MarkUnused(0))
	require.NoError(t, r.ReadyFrom(1, tensorOf(t, 1)))
	require.NoError(t, r.Ready(2))
	_, err := r.Wait(testutil.Soon(t))
	require.NoError(t, err)
	text, err := json.Marshal(r.LoggingData())
	require.NoError(t, err)
	var got map[string]any
	require.NoError(t, json.Unmarshal(text, &got))
	for name, want := range map[string]any{
		"world_size": 1.0, "rank": 0.0, "backend_name": "gloo", "num_parameter_tensors": 3.0, "total_parameter_size_bytes": 16.0,
		"dtypes": []any{"float32", "float64"}, "bucket_cap_bytes": float64(25 << 20), "find_unused_parameters": true, "static_graph": false,
		"join_uneven_inputs": true, "gradient_as_bucket_view": false, "bucket_sizes": []any{8.0, 8.0}, "has_rebuilt_buckets": false,
		"iteration": 1.0, "unused_parameter_size": 4.0, "has_error": false,
		"comm_hook": "torch.distributed.algorithms.ddp_comm_hooks.default_hooks.allreduce_hook",
	} {
		assert.Equal(t, want, got[name], name)
	}
	last, err := r.Join(testutil.Soon(t))
	require.NoError(t, err)
	assert.Equal(t, 0, last)
	assert.False(t, r.LoggingData().HasError, "the end of Join is none")
}
