package worker_test

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/internal/testutil"
	"pyhook/pyhook"
	"pyhook/tensor"
	"pyhook/worker"
)

func TestWorker_NewHook_WithParameters(t *testing.T) {
	w := start(t, 1, worker.Config{})[0]
	values, err := tensor.FromSlice([]float32{3, 4}) // not in shared memory
	require.NoError(t, err)
	defer values.Close()
	params := []*c10d.Parameter{
		{Name: "fc.weight", Shape: []int64{2}, DType: tensor.Float32, Data: values},
		{Name: "fc.bias", Shape: []int64{1}, DType: tensor.Float32, Attributes: map[string]any{"is_shared_mp": true}},
	}
	b := func(t *testing.T, params ...*c10d.Parameter) *c10d.GradBucket {
		cfg := c10d.BucketConfig{Count: 1, Parameters: params}
		var total int64
		for _, p := range params {
			cfg.Offsets, cfg.Lengths, cfg.Sizes = append(cfg.Offsets, total), append(cfg.Lengths, p.Shape[0]), append(cfg.Sizes, p.Shape)
			total += p.Shape[0]
		}
		buffer, err := w.NewBuffer(tensor.Float32, total)
		require.NoError(t, err)
		t.Cleanup(buffer.Close)
		cfg.Buffer = buffer
		made, err := c10d.NewGradBucket(cfg)
		require.NoError(t, err)
		t.Cleanup(made.Close)
		return made
	}
	h := hook(t, w, "made:by_id", worker.HookConfig{
		State: worker.State{Spec: "made:ById", Args: map[string]any{"scale": json.Number("2")}}, Parameters: params})
	for _, when := range []string{"at first", "after a restart"} {
		t.Run(when, func(t *testing.T) {
			got, err := reduce(testutil.Soon(t), h, b(t, params[1], params[0]))
			require.NoError(t, err)
			assert.Equal(t, []float32{-1, 6, 8}, got, "the objects that the state was made with")
			got, err = reduce(testutil.Soon(t), h, b(t, params[0])) // as after rebuilt buckets
			require.NoError(t, err)
			assert.Equal(t, []float32{6, 8}, got)
			_, err = w.Restart(testutil.Soon(t))
			require.NoError(t, err)
		})
	}
	t.Run("an object that registers its hook", func(t *testing.T) {
		h := hook(t, w, "made:Stats()", worker.HookConfig{Parameters: params})
		assert.Equal(t, "made.Stats.hook", h.Name())
		got, err := reduce(testutil.Soon(t), h, b(t, params...))
		require.NoError(t, err)
		assert.Equal(t, []float32{2, 2, 2}, got)
	})
	t.Run("a whole float is an int, and PowerSGD has a state", func(t *testing.T) {
		hook(t, w, "powersgd", worker.HookConfig{})
		_, err := w.NewHook(t.Context(), "powersgd", worker.HookConfig{State: worker.State{Spec: "powersgd", Args: map[string]any{"matrix_approximation_rank": 2.5}}})
		require.ErrorIs(t, err, c10d.ErrBadArguments)
		hook(t, w, "powersgd", worker.HookConfig{State: pyhook.StateSpec{Spec: "powersgd", Args: map[string]any{"matrix_approximation_rank": 2.0}}})
	})
	t.Run("none of nil", func(t *testing.T) {
		_, err := w.NewHook(t.Context(), "made:Stats()", worker.HookConfig{Parameters: []*c10d.Parameter{nil}})
		require.ErrorIs(t, err, c10d.ErrLoad)
		require.ErrorContains(t, err, "parameter 0 is nil")
	})
}
