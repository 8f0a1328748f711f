package pyhook

import (
	"bytes"
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/tensor"
)

// namedBucket is one of float32 parameters in a row.
func namedBucket(t *testing.T, index, count int, names []string, sizes ...[]int64) *c10d.GradBucket {
	t.Helper()
	cfg := c10d.BucketConfig{Index: index, Count: count}
	total := int64(0)
	for i, size := range sizes {
		n := size[0] * size[1]
		cfg.Offsets, cfg.Lengths, cfg.Sizes = append(cfg.Offsets, total), append(cfg.Lengths, n), append(cfg.Sizes, size)
		cfg.Parameters = append(cfg.Parameters, &c10d.Parameter{Name: names[i], Shape: size, DType: tensor.Float32})
		total += n
	}
	var err error
	cfg.Buffer, err = tensor.New(tensor.Float32, total)
	require.NoError(t, err)
	b, err := c10d.NewGradBucket(cfg)
	require.NoError(t, err)
	t.Cleanup(func() {
		b.Close()
		for _, p := range cfg.Parameters {
			p.Close()
		}
	})
	return b
}

func callOnce(t *testing.T, h *PythonCommHook, b *c10d.GradBucket) error {
	t.Helper()
	future, err := h.RunHook(context.Background(), b)
	if err != nil {
		return err
	}
	defer future.Close()
	_, err = future.Wait(context.Background())
	return err
}

// TestPythonCommHook_LoadState: a PowerSGD state goes on with the buckets it was saved with, and
// names what differs of others; torch says "The size of tensor a must match ..." or nothing.
func TestPythonCommHook_LoadState(t *testing.T) {
	names, sizes := []string{"a", "b"}, [][]int64{{12, 9}, {9, 12}}
	saving := powerHook(t)
	defer saving.Close()
	for range 4 {
		require.NoError(t, callOnce(t, saving, namedBucket(t, 0, 1, names, sizes...)))
	}
	var file bytes.Buffer
	require.NoError(t, saving.SaveState(t.Context(), &file))

	for name, c := range map[string]struct {
		bucket *c10d.GradBucket
		want   string
	}{
		"the same":            {namedBucket(t, 0, 1, names, sizes...), ""},
		"another size":        {namedBucket(t, 0, 1, names[:1], sizes[:1]...), "its state was saved with a bucket of 216 elements of float32, and this one has 108 elements of float32"},
		"another order":       {namedBucket(t, 0, 1, []string{"b", "a"}, sizes...), "of other parameters, or of these in another order, of 216 elements"},
		"another shape":       {namedBucket(t, 0, 1, names, []int64{27, 4}, sizes[1]), "of other parameters, or of these in another order, of 216 elements"},
		"more buckets":        {namedBucket(t, 0, 2, names, sizes...), "its state was saved with 1 buckets, and now there are 2"},
		"more buckets, later": {namedBucket(t, 1, 2, names, sizes...), "its state was saved with 1 buckets, and now there are 2"},
	} {
		t.Run(name, func(t *testing.T) {
			h := powerHook(t)
			defer h.Close()
			require.NoError(t, h.LoadState(t.Context(), bytes.NewReader(file.Bytes())))
			err := callOnce(t, h, c.bucket)
			if c.want == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorIs(t, err, c10d.ErrStateBuckets)
			assert.Contains(t, err.Error(), fmt.Sprintf("hook %s, rank 0, bucket %d: ", h.Name(), c.bucket.Index()))
			require.ErrorIs(t, err, c10d.ErrState)
			assert.Contains(t, err.Error(), c.want)
			assert.Contains(t, err.Error(), "\nhint: resume with the parameters, BucketCapMB, FirstBucketMB and Layout")
			require.Error(t, callOnce(t, h, c.bucket), "and again")
			require.NoError(t, callOnce(t, h, namedBucket(t, 0, 1, names, sizes...)))
		})
	}
	t.Run("after a step the buckets may be rebuilt, as in the run that was stopped", func(t *testing.T) {
		h := load(t, "sample:doubled_in_place", HookConfig{State: map[string]any{"seen": []any{}}})
		b := namedBucket(t, 0, 1, names, sizes...)
		require.NoError(t, callOnce(t, h, b))
		h.buckets.saved = []bucketForm{formOf(b)}
		h.buckets.last.Store(nil)
		require.NoError(t, callOnce(t, h, b))
		require.NoError(t, callOnce(t, h, namedBucket(t, 0, 2, names, sizes...)))
	})
	t.Run("of Python's the first step's buckets stay", func(t *testing.T) {
		module, err := rt.Import(t.Context(), "pyhook")
		require.NoError(t, err)
		defer module.Close()
		data, err := module.CallValue("save_state", saving.State())
		require.NoError(t, err)
		h := powerHook(t)
		defer h.Close()
		require.NoError(t, h.LoadState(t.Context(), bytes.NewReader(data.([]byte))))
		var again bytes.Buffer
		require.NoError(t, h.SaveState(t.Context(), &again))
		require.NoError(t, h.LoadState(t.Context(), &again), "a file of a file")
		for range 2 {
			require.NoError(t, callOnce(t, h, namedBucket(t, 0, 1, names, sizes...)))
		}
		for _, other := range []*c10d.GradBucket{namedBucket(t, 0, 1, []string{"b", "a"}, sizes...), namedBucket(t, 0, 2, names, sizes...)} {
			for range 2 {
				err := callOnce(t, h, other)
				require.ErrorIs(t, err, c10d.ErrStateBuckets)
				require.ErrorContains(t, err, "saved by Python")
				require.ErrorContains(t, err, "take LayoutFixed")
			}
		}
		require.NoError(t, h.SaveState(t.Context(), &again))
		require.NoError(t, h.LoadState(t.Context(), &again))
		require.Error(t, callOnce(t, h, namedBucket(t, 0, 1, []string{"b", "a"}, sizes...)), "what Go saves names them")
	})
	t.Run("a state that is saved as it was loaded belongs to the same buckets", func(t *testing.T) {
		h := powerHook(t)
		defer h.Close()
		require.NoError(t, h.LoadState(t.Context(), bytes.NewReader(file.Bytes())))
		var again bytes.Buffer
		require.NoError(t, h.SaveState(t.Context(), &again))
		require.NoError(t, h.LoadState(t.Context(), &again))
		require.ErrorIs(t, callOnce(t, h, namedBucket(t, 0, 1, []string{"b", "a"}, sizes...)), c10d.ErrStateBuckets)
	})
	t.Run("and after a step that did not pass", func(t *testing.T) {
		saving := powerHook(t)
		defer saving.Close()
		for call := range 6 {
			require.NoError(t, callOnce(t, saving, namedBucket(t, call%2, 2, names, sizes...)))
		}
		var file, again bytes.Buffer
		require.NoError(t, saving.SaveState(t.Context(), &file))
		h := powerHook(t)
		defer h.Close()
		require.NoError(t, h.LoadState(t.Context(), &file))
		require.NoError(t, callOnce(t, h, namedBucket(t, 0, 2, names, sizes...)))
		require.NoError(t, h.SaveState(t.Context(), &again))
		require.NoError(t, h.LoadState(t.Context(), &again))
		require.ErrorIs(t, callOnce(t, h, namedBucket(t, 0, 2, []string{"b", "a"}, sizes...)), c10d.ErrStateBuckets)
	})
	t.Run("a state without tensors goes with any bucket", func(t *testing.T) {
		h, err := rt.NewHook(t.Context(), "sample:doubled_in_place", HookConfig{State: map[string]any{"steps": 3}})
		require.NoError(t, err)
		defer h.Close()
		require.NoError(t, callOnce(t, h, namedBucket(t, 0, 1, names, sizes...)))
		var file bytes.Buffer
		require.NoError(t, h.SaveState(t.Context(), &file))
		require.NoError(t, h.LoadState(t.Context(), &file))
		require.NoError(t, callOnce(t, h, namedBucket(t, 0, 1, names[:1], sizes[:1]...)))
	})
	t.Run("and so does one that is loaded with AnyBuckets", func(t *testing.T) {
		h := powerHook(t)
		defer h.Close()
		require.NoError(t, h.LoadState(t.Context(), bytes.NewReader(file.Bytes()), AnyBuckets()))
		err := callOnce(t, h, namedBucket(t, 0, 1, names[:1], sizes[:1]...))
		require.ErrorIs(t, err, c10d.ErrRaised, "PowerSGD's own error")
	})
}
