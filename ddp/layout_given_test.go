package ddp_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/ddp"
	"pyhook/internal/testutil"
	"pyhook/tensor"
)

// ready marks every parameter, the last one first, and waits.
func ready(t *testing.T, r *ddp.Reducer, n int) {
	t.Helper()
	for i := n - 1; i >= 0; i-- {
		require.NoError(t, r.Ready(i))
	}
	_, err := r.Wait(testutil.Soon(t))
	require.NoError(t, err)
}

func TestBucketsThatAreGivenAreTheBuckets(t *testing.T) {
	given := [][]int{{4, 0}, {3}, {1, 2}}
	h := hook{run: identity}
	r := reducer(t, scalars(5), ddp.Options{Hook: h, Buckets: given})
	assert.Equal(t, given, r.Buckets())
	given[0][0] = 1
	assert.Equal(t, [][]int{{4, 0}, {3}, {1, 2}}, r.Buckets(), "the list stays the caller's")
	ready(t, r, 5)

	given[0][0] = 4
	r = reducer(t, scalars(5), ddp.Options{Hook: h, Buckets: given, Layout: ddp.LayoutRebuilt})
	assert.Equal(t, [][]int{{0, 1, 2, 3, 4}}, r.Buckets(), "one at first, as PyTorch's")
	ready(t, r, 5)
	assert.Equal(t, given, r.Buckets())
	ready(t, r, 5)

	r = reducer(t, scalars(5), ddp.Options{Hook: h, Buckets: given, Layout: ddp.LayoutRebuilt, Unused: ddp.UnusedFind})
	assert.Equal(t, given, r.Buckets(), "those are never made anew")
}

func TestBucketsThatAreNoneAreRefused(t *testing.T) {
	mixed := scalars(3)
	mixed[2].DType = tensor.Float64
	for want, c := range map[string]struct {
		params []*c10d.Parameter
		given  [][]int
	}{
		"does not have all parameters":   {scalars(3), [][]int{{0}, {2}}},
		"has no parameters":              {scalars(3), [][]int{{0, 1, 2}, {}}},
		"names parameter 3 of 3":         {scalars(3), [][]int{{0, 1, 2, 3}}},
		"names parameter -1 of 3":        {scalars(3), [][]int{{-1}}},
		"is there twice":                 {scalars(3), [][]int{{0, 1}, {1, 2}}},
		"(float32) and p2 (float64)":     {mixed, [][]int{{0, 1, 2}}},
		"ddp, rank 0: Options.Buckets: ": {scalars(1), [][]int{{0, 0}}},
	} {
		_, err := ddp.NewReducer(testutil.Soon(t), c.params, ddp.Options{Group: memoryGroups(1)[0], Hook: hook{run: identity}, Buckets: c.given})
		assert.ErrorContains(t, err, want)
	}
}
