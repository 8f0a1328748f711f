package ddp_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"pyhook/c10d/transport/memgroup"
	"pyhook/ddp"
	"pyhook/tensor"
)

// Results go to where ReadyFrom's gradients came from. Where two share memory one would be lost.
func TestReducer_Wait_gradientsThatShareMemory(t *testing.T) {
	whole := tensorOf(t, 1, 2, 3, 4, 5, 6, 7, 8, 9)
	part := func(offset int64, strides ...int64) *tensor.Tensor {
		return view(t, whole, offset, []int64{2, 2}, strides)
	}
	shapes := [][]int64{{2, 2}, {2, 2}}

	for name, c := range map[string]struct {
		first, second *tensor.Tensor
		shared        bool
	}{
		"the same":               {part(0), part(0), true},
		"one element":            {part(0), part(3), true},
		"transposed":             {part(0, 1, 2), part(3), true},
		"with gaps, at one end":  {part(3, 4, 1), part(0), true},
		"with gaps, at an end":   {part(0, 4, 1), part(5), true},
		"columns that meet":      {part(0, 4, 1), part(1, 4, 1), true},
		"beside":                 {part(0), part(4), false},
		"columns of one matrix":  {part(0, 4, 1), part(2, 4, 1), false},
		"transposed and beside":  {part(0, 1, 2), part(4, 1, 2), false},
		"in the gaps of another": {part(0, 6, 1), part(2), false},
	} {
		t.Run(name, func(t *testing.T) {
			copy(floats(whole), []float32{1, 2, 3, 4, 5, 6, 7, 8, 9})
			r := reducer(t, parameters(shapes...), ddp.Options{})
			require.NoError(t, r.ReadyFrom(0, c.first))
			require.NoError(t, r.ReadyFrom(1, c.second))
			_, err := r.Wait(t.Context())
			if !c.shared {
				require.NoError(t, err)
				return
			}
			require.ErrorIs(t, err, ddp.ErrOverlap)
			require.ErrorContains(t, err, "p0, p1")
			require.Equal(t, []float32{1, 2, 3, 4, 5, 6, 7, 8, 9}, floats(whole))
			require.NoError(t, r.Ready(0))
			require.NoError(t, r.Ready(1))
			_, err = r.Wait(t.Context())
			require.NoError(t, err, "the next step works")
		})
	}

	t.Run("with another's bucket memory", func(t *testing.T) {
		r := reducer(t, parameters(shapes...), ddp.Options{})
		require.NoError(t, r.ReadyFrom(0, r.Gradient(1)))
		require.NoError(t, r.Ready(1))
		_, err := r.Wait(t.Context())
		require.ErrorIs(t, err, ddp.ErrOverlap)
	})

	t.Run("one that the step does not use", func(t *testing.T) {
		r := reducer(t, parameters(shapes...), ddp.Options{Unused: ddp.UnusedFind})
		require.NoError(t, r.ReadyFrom(0, part(0)))
		require.NoError(t, r.MarkUnusedInto(1, part(2)))
		_, err := r.Wait(t.Context())
		require.ErrorIs(t, err, ddp.ErrOverlap)
	})

	t.Run("of one rank, every rank hears", func(t *testing.T) {
		for _, err := range memgroup.Run(2, func(group *memgroup.Group) error {
			r := reducer(t, parameters(shapes...), ddp.Options{Group: group})
			for i := range shapes {
				grad := zeros(t, tensor.Float32, 2, 2)
				if group.Rank() == 1 {
					grad = part(int64(i))
				}
				require.NoError(t, r.ReadyFrom(i, grad))
			}
			_, err := r.Wait(t.Context())
			if r.Ready(0) != nil {
				t.Error("every rank's collectives were over: the next step may begin")
			}
			return err
		}) {
			require.ErrorIs(t, err, ddp.ErrOverlap)
		}
	})
}

// A gradient whose elements share memory cannot hold its result.
func TestReducer_ReadyFrom_elementsThatShareMemory(t *testing.T) {
	whole := tensorOf(t, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12)
	for name, c := range map[string]struct {
		shape, strides []int64
		shared         bool
	}{
		"expanded":                 {[]int64{3, 2}, []int64{0, 1}, true},
		"windows":                  {[]int64{3, 2}, []int64{1, 1}, true},
		"windows of three":         {[]int64{2, 2, 2}, []int64{4, 1, 1}, true},
		"columns that meet":        {[]int64{3, 3}, []int64{1, 2}, true},
		"transposed":               {[]int64{2, 3}, []int64{1, 2}, false},
		"with gaps":                {[]int64{2, 3}, []int64{6, 2}, false},
		"no step in what is one":   {[]int64{1, 3}, []int64{0, 2}, false},
		"no elements, so no steps": {[]int64{0, 3}, []int64{0, 0}, false},
	} {
		t.Run(name, func(t *testing.T) {
			r := reducer(t, parameters(c.shape), ddp.Options{})
			err := r.ReadyFrom(0, view(t, whole, 0, c.shape, c.strides))
			if c.shared {
				require.ErrorIs(t, err, ddp.ErrOverlap)
				require.ErrorContains(t, err, "gradient of p0")
				return
			}
			require.NoError(t, err)
			_, err = r.Wait(t.Context())
			require.NoError(t, err)
		})
	}
}
