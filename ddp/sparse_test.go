package ddp_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/c10d/hooks"
	"pyhook/c10d/transport/memgroup"
	"pyhook/ddp"
	"pyhook/internal/testutil"
	"pyhook/tensor"
)

// embedding is p0, sparse of shape [6 2], and p1, dense of one element.
func embedding() []*c10d.Parameter {
	params := parameters([]int64{6, 2}, []int64{1})
	params[0].Sparse = true
	return params
}

// coo is a gradient of an embedding [n 2]: row k has values[k] and ten times that.
func coo(t *testing.T, indices []int64, values ...float32) *c10d.SparseGradient {
	t.Helper()
	flat := make([]float32, 0, 2*len(values))
	for _, v := range values {
		flat = append(flat, v, 10*v)
	}
	g := &c10d.SparseGradient{
		Indices: must(tensor.FromSlice(indices, 1, int64(len(indices)))),
		Values:  must(tensor.FromSlice(flat, int64(len(values)), 2)),
	}
	t.Cleanup(g.Close)
	return g
}

// cooText shows a gradient's rows: index and first value.
func cooText(g *c10d.SparseGradient) string {
	if g == nil {
		return "nil"
	}
	text := ""
	indices, values := must(tensor.Slice[int64](g.Indices)), floats(g.Values)
	for k, at := range indices {
		text += fmt.Sprintf("%d:%g,%g ", at, values[2*k], values[2*k+1])
	}
	return text
}

// sparseStep is a step of the embedding, whose dense parameter is the rank.
func sparseStep(t *testing.T, r *ddp.Reducer, rank int, g *c10d.SparseGradient) {
	t.Helper()
	floats(r.Gradient(1))[0] = float32(rank)
	assert.NoError(t, r.Ready(1))
	if g == nil {
		assert.NoError(t, r.MarkUnused(0))
	} else {
		assert.NoError(t, r.ReadySparse(0, g))
	}
	_, err := r.Wait(testutil.Soon(t))
	assert.NoError(t, err)
}

// onEmbedding runs f on two ranks of a memgroup.
func onEmbedding(t *testing.T, opts ddp.Options, hook bool, f func(rank int, r *ddp.Reducer)) {
	t.Helper()
	groups := memgroup.New(2)
	onRanks(2, func(rank int) {
		defer groups[rank].Close()
		opts := opts
		opts.Group = groups[rank]
		if hook {
			opts.Hook = &hooks.AllReduceCommHook{Group: groups[rank]}
		}
		r, err := ddp.NewReducer(testutil.Soon(t), embedding(), opts)
		if assert.NoError(t, err) {
			defer r.Close()
			f(rank, r)
		}
	})
}

func TestSparseGradientsAreAveragedOverTheRanks(t *testing.T) {
	for _, hook := range []bool{false, true} {
		for _, layout := range []ddp.Layout{ddp.LayoutFixed, ddp.LayoutRebuilt} {
			t.Run(fmt.Sprint(hook, layout), func(t *testing.T) {
				noLeaks(t, func() {
					onEmbedding(t, ddp.Options{Layout: layout}, hook, func(rank int, r *ddp.Reducer) {
						assert.Nil(t, r.SparseGradient(0))
						assert.Nil(t, r.Gradient(0))
						for step := range 3 {
							g := [][]int64{{5, 1, 5}, {0, 5, 1}}[rank]
							own := coo(t, g, 1, 2, 3)
							sparseStep(t, r, rank, own)
							assert.Equal(t, "0:0.5,5 1:2.5,25 5:3,30 ", cooText(r.SparseGradient(0)), "step %d", step)
							assert.Equal(t, []float32{1, 10, 2, 20, 3, 30}, floats(own.Values), "the trainer's own values")
							assert.Equal(t, float32(0.5), floats(r.Gradient(1))[0])
							own.Close()
							assert.Nil(t, r.SparseGradient(1))
						}
					})
				})
			})
		}
	}
}

// PyTorch fails on a sparse parameter that a step does not use: "Expected sparse
// gradient to be defined".
func TestAStepMayHaveNoRows(t *testing.T) {
	onEmbedding(t, ddp.Options{Unused: ddp.UnusedFind}, false, func(rank int, r *ddp.Reducer) {
		for _, c := range []struct {
			rows [2]*c10d.SparseGradient
			want string
			used bool
		}{
			{[2]*c10d.SparseGradient{coo(t, []int64{2}, 4), nil}, "2:2,20 ", true},
			{[2]*c10d.SparseGradient{}, "", false},
			{[2]*c10d.SparseGradient{nil, coo(t, []int64{}, nil...)}, "", true},
		} {
			sparseStep(t, r, rank, c.rows[rank])
			assert.Equal(t, c.want, cooText(r.SparseGradient(0)))
			assert.Equal(t, c.used, r.Used(0))
		}
		// Not marked at all.
		assert.NoError(t, r.Ready(1))
		_, err := r.Wait(testutil.Soon(t))
		assert.NoError(t, err)
		assert.Empty(t, cooText(r.SparseGradient(0)))
	})
}

func TestNoSyncLeavesSparseRowsToTheNextStep(t *testing.T) {
	noLeaks(t, func() {
		onEmbedding(t, ddp.Options{Unused: ddp.UnusedFind}, false, func(rank int, r *ddp.Reducer) {
			assert.NoError(t, r.NoSync(func() error {
				g := coo(t, []int64{3}, 8)
				defer g.Close()
				return r.ReadySparse(0, g)
			}))
			if rank == 0 { // the rows of before and of this step
				g := coo(t, []int64{3, 3}, 8, 2)
				defer g.Close()
				assert.NoError(t, r.ReadySparse(0, g))
			} // else not used in this step: those of before
			assert.NoError(t, r.Ready(1))
			_, err := r.Wait(testutil.Soon(t))
			assert.NoError(t, err)
			assert.Equal(t, "3:9,90 ", cooText(r.SparseGradient(0)))
		})
	})
}

func TestStaticGraphWithASparseParameterThatLayersShare(t *testing.T) {
	onEmbedding(t, ddp.Options{StaticGraph: true, Layout: ddp.LayoutRebuilt}, false, func(rank int, r *ddp.Reducer) {
		for step := range 3 {
			first, both := coo(t, []int64{1}, 2), coo(t, []int64{1, 4}, 2, 6)
			assert.NoError(t, r.ReadySparse(0, first))
			assert.NoError(t, r.ReadySparse(0, both))
			if step > 0 {
				assert.ErrorIs(t, r.ReadySparse(0, both), ddp.ErrGraphChanged)
			}
			assert.NoError(t, r.Ready(1))
			_, err := r.Wait(testutil.Soon(t))
			assert.NoError(t, err)
			assert.Equal(t, "1:2,20 4:6,60 ", cooText(r.SparseGradient(0)), "rank %d step %d", rank, step)
		}
	})
}

func TestARankWithoutDataJoinsWithNoRows(t *testing.T) {
	onEmbedding(t, ddp.Options{Join: true}, true, func(rank int, r *ddp.Reducer) {
		for range 1 + rank {
			sparseStep(t, r, rank, coo(t, []int64{1}, 2))
		}
		last, err := r.Join(testutil.Soon(t))
		assert.NoError(t, err)
		assert.Equal(t, 1, last)
		if rank == 1 {
			assert.Equal(t, "1:1,10 ", cooText(r.SparseGradient(0)))
		}
	})
}

func TestTwoSparseDimensions(t *testing.T) {
	params := parameters([]int64{2, 3, 2})
	params[0].Sparse = true
	groups := memgroup.New(2)
	onRanks(2, func(rank int) {
		r, err := ddp.NewReducer(testutil.Soon(t), params, ddp.Options{Group: groups[rank]})
		if !assert.NoError(t, err) {
			return
		}
		defer r.Close()
		for step := range 2 {
			g := &c10d.SparseGradient{Indices: must(tensor.FromSlice([]int64{1, 0, 0, 2}, 2, 2)), Values: must(tensor.FromSlice([]float32{2, 4, 6, 8}, 2, 2))}
			if rank == 0 || step == 0 {
				assert.NoError(t, r.ReadySparse(0, g))
			} else {
				assert.NoError(t, r.MarkUnused(0))
			}
			_, err = r.Wait(testutil.Soon(t))
			assert.NoError(t, err)
			got := r.SparseGradient(0)
			assert.Equal(t, []int64{0, 1, 2, 0}, must(tensor.Slice[int64](got.Indices)))
			assert.Equal(t, [][]float32{{6, 8, 2, 4}, {3, 4, 1, 2}}[step], floats(got.Values))
			g.Close()
		}
		// The ranks' sparse dimensions differ: an error on each.
		g := must(c10d.NewSparseGradient(params[0], 2-rank, 1))
		defer g.Close()
		assert.NoError(t, r.ReadySparse(0, g))
		_, err = r.Wait(testutil.Soon(t))
		assert.ErrorIs(t, err, c10d.ErrSparseGradient)
		assert.ErrorContains(t, err, "2 sparse dimensions on rank 0 and 1 on rank 1")
	})
}

func TestASparseGradientThatIsNoneIsRefused(t *testing.T) {
	noLeaks(t, func() {
		t.Run("", func(t *testing.T) {
			params := embedding()
			r, err := ddp.NewReducer(testutil.Soon(t), params, ddp.Options{Group: memoryGroups(1)[0]})
			require.NoError(t, err)
			defer r.Close()
			of := func(dtype tensor.DType, shape ...int64) *tensor.Tensor {
				x := must(tensor.New(dtype, shape...))
				t.Cleanup(x.Close)
				return x
			}
			i64, f32 := tensor.Int64, tensor.Float32
			closed := must(tensor.New(f32, 1, 2))
			closed.Close()
			wide := of(f32, 1, 4)
			strided := must(wide.View(0, []int64{1, 2}, []int64{4, 2}))
			defer strided.Close()
			for name, c := range map[string]struct {
				g    *c10d.SparseGradient
				want string
			}{
				"nil":                 {nil, "nil"},
				"no values":           {&c10d.SparseGradient{Indices: of(i64, 1, 1)}, "nil"},
				"no indices":          {&c10d.SparseGradient{Values: of(f32, 1, 2)}, "nil"},
				"closed":              {&c10d.SparseGradient{Indices: of(i64, 1, 1), Values: closed}, "closed"},
				"indices of one axis": {&c10d.SparseGradient{Indices: of(i64, 1), Values: of(f32, 1, 2)}, "of shape [sparse dimensions, nnz]"},
				"int32 indices":       {&c10d.SparseGradient{Indices: of(tensor.Int32, 1, 1), Values: of(f32, 1, 2)}, "not int64"},
				"too many dimensions": {&c10d.SparseGradient{Indices: of(i64, 3, 1), Values: of(f32, 1)}, "[3 1] for a parameter of shape [6 2]"},
				"other rows":          {&c10d.SparseGradient{Indices: of(i64, 1, 2), Values: of(f32, 1, 2)}, "not float32[2 2]"},
				"other width":         {&c10d.SparseGradient{Indices: of(i64, 1, 1), Values: of(f32, 1, 3)}, "not float32[1 2]"},
				"other dtype":         {&c10d.SparseGradient{Indices: of(i64, 1, 1), Values: of(tensor.Float64, 1, 2)}, "not float32"},
				"strided":             {&c10d.SparseGradient{Indices: of(i64, 1, 1), Values: strided}, "contiguous"},
				"beyond":              {coo(t, []int64{0, 6}, 1, 2), "index 6 of row 1 is not in 0..5"},
				"negative":            {coo(t, []int64{-1}, 1), "index -1 of row 0"},
			} {
				err := r.ReadySparse(0, c.g)
				require.ErrorIs(t, err, c10d.ErrSparseGradient, name)
				require.ErrorContains(t, err, c.want, name)
				require.ErrorContains(t, err, "rank 0, gradient of p0", name)
			}
			sparseStep(t, r, 0, coo(t, []int64{1}, 1)) // still unmarked, and fine
		})
	})
}

func TestSparseAndDenseAreNotMixedUp(t *testing.T) {
	r := reducer(t, embedding(), ddp.Options{})
	dense := tensorOf(t, 1)
	for name, err := range map[string]error{
		"Ready": r.Ready(0), "ReadyFrom": r.ReadyFrom(0, dense), "MarkUnusedInto": r.MarkUnusedInto(0, dense), "ReadySparse": r.ReadySparse(1, coo(t, []int64{0}, 1)),
	} {
		require.ErrorIs(t, err, ddp.ErrSparse, name)
		require.ErrorContains(t, err, "hint: mark it with", name)
	}
	require.ErrorContains(t, r.ReadySparse(2, nil), "no parameter 2")
	require.NoError(t, r.ReadySparse(0, coo(t, []int64{0}, 1)))
	require.ErrorIs(t, r.ReadySparse(0, coo(t, []int64{0}, 1)), ddp.ErrReadyTwice)
	r.Close()
	require.ErrorIs(t, r.ReadySparse(0, coo(t, []int64{0}, 1)), ddp.ErrClosed)
	assert.Nil(t, r.SparseGradient(0))
}

func TestAHookMustKnowSparseGradients(t *testing.T) {
	group := memoryGroups(1)[0]
	for name, opts := range map[string]ddp.Options{
		"a Go hook": {Hook: &hook{run: identity}}, "half precision": {Hook: &hooks.FP16CompressCommHook{Group: group}},
	} {
		opts.Group = group
		_, err := ddp.NewReducer(testutil.Soon(t), embedding(), opts)
		require.ErrorIs(t, err, ddp.ErrSparse, name)
		require.ErrorContains(t, err, "p0 is sparse", name)
	}
	scalar := scalars(1)
	scalar[0].Shape, scalar[0].Sparse = nil, true
	_, err := ddp.NewReducer(testutil.Soon(t), scalar, ddp.Options{Group: group})
	require.ErrorContains(t, err, "no dimensions")
}

func TestRanksWithASparseAndADenseParameterDiffer(t *testing.T) {
	groups := memoryGroups(2)
	onRanks(2, func(rank int) {
		params := embedding()
		params[0].Sparse = rank == 0
		_, err := ddp.NewReducer(testutil.Soon(t), params, ddp.Options{Group: groups[rank]})
		assert.ErrorIs(t, err, ddp.ErrMismatch)
		assert.ErrorContains(t, err, "[6 2] sparse float32 on rank 0")
	})
}

// A hook of the trainer's own whose result is no gradient of the parameter.
type badSparse struct {
	hooks.AllReduceCommHook
	result func() (*c10d.SparseGradient, error)
}

func (h *badSparse) ParseSparseHookResult(*c10d.GradBucket, c10d.Result) (*c10d.SparseGradient, error) {
	return h.result()
}

func TestABadSparseResultWritesNothing(t *testing.T) {
	noLeaks(t, func() {
		t.Run("", func(t *testing.T) {
			group := memgroup.New(1)[0]
			defer group.Close()
			h := &badSparse{AllReduceCommHook: hooks.AllReduceCommHook{Group: group}}
			r, err := ddp.NewReducer(testutil.Soon(t), embedding(), ddp.Options{Group: group, Hook: h})
			require.NoError(t, err)
			defer r.Close()
			good := func() (*c10d.SparseGradient, error) { return coo(t, []int64{2}, 7), nil }
			h.result = good
			sparseStep(t, r, 0, coo(t, []int64{1}, 1))
			for name, result := range map[string]func() (*c10d.SparseGradient, error){
				"nil":    func() (*c10d.SparseGradient, error) { return nil, nil },
				"beyond": func() (*c10d.SparseGradient, error) { return coo(t, []int64{9}, 7), nil },
				"error":  func() (*c10d.SparseGradient, error) { return nil, errBoom },
			} {
				h.result = result
				floats(r.Gradient(1))[0] = 3
				require.NoError(t, r.Ready(1))
				require.NoError(t, r.ReadySparse(0, coo(t, []int64{1}, 1)))
				_, err := r.Wait(testutil.Soon(t))
				var step *ddp.StepError
				require.ErrorAs(t, err, &step, name)
				assert.Equal(t, []string{"p0"}, step.Names)
				assert.Equal(t, "2:7,70 ", cooText(r.SparseGradient(0)), "the last good one")
			}
			h.result = good
			sparseStep(t, r, 0, coo(t, []int64{1}, 1))
		})
	})
}

func TestWaitEndsWithItsContextWhileAnotherRankDoesNotCome(t *testing.T) {
	noLeaks(t, func() {
		t.Run("", func(t *testing.T) {
			groups := memgroup.New(2)
			waited := make(chan struct{})
			onRanks(2, func(rank int) {
				r, err := ddp.NewReducer(testutil.Soon(t), embedding(), ddp.Options{Group: groups[rank]})
				if !assert.NoError(t, err) {
					return
				}
				defer r.Close()
				if rank == 1 {
					<-waited // its Close is a failure of its own
					return
				}
				defer close(waited)
				assert.NoError(t, r.Ready(1))
				assert.NoError(t, r.ReadySparse(0, coo(t, []int64{1}, 1)))
				ctx, cancel := context.WithCancelCause(context.Background())
				cancel(errBoom)
				_, err = r.Wait(ctx)
				assert.ErrorIs(t, err, errBoom)
			})
			for _, g := range groups {
				g.Close()
			}
		})
	})
}
