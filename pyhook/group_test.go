package pyhook

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/c10d/hooks"
	"pyhook/internal/testutil"
	"pyhook/tensor"
)

// waited is for the future of a collective.
func waited(future *c10d.Future[*tensor.Tensor], err error) (*tensor.Tensor, error) {
	if err != nil {
		return nil, err
	}
	defer future.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	return future.Wait(ctx)
}

func TestAGroupOfOneRankHasAllCollectives(t *testing.T) {
	assert.Equal(t, []any{0, 1, "gloo", 0}, []any{world.Rank(), world.Size(), world.Backend(), rt.Rank()})
	check(t, "", func(t *testing.T) {
		ctx := testutil.Soon(t)
		x := tensorOf(t, tensor.Float32, []float32{1, 2})
		for _, op := range []c10d.ReduceOp{c10d.Sum, c10d.Product, c10d.Min, c10d.Max} {
			got, err := waited(world.AllReduce(ctx, x, op))
			require.NoError(t, err)
			assert.Same(t, x, got)
			assert.Equal(t, []float32{1, 2}, values(t, x))
		}
		got, err := waited(world.Broadcast(ctx, x, 0))
		require.NoError(t, err)
		assert.Same(t, x, got)
		out := tensorOf(t, tensor.Float32, []float32{0, 0})
		_, err = waited(world.AllGather(ctx, []*tensor.Tensor{out}, x))
		require.NoError(t, err)
		assert.Equal(t, []float32{1, 2}, values(t, out))
		require.NoError(t, world.Barrier(ctx))
	})
	check(t, "and sub-groups", func(t *testing.T) {
		sub, err := world.NewGroup(t.Context(), []int{0})
		require.NoError(t, err)
		assert.Equal(t, []any{0, 1, "gloo"}, []any{sub.Rank(), sub.Size(), sub.Backend()})
		_, err = waited(sub.Broadcast(testutil.Soon(t), tensorOf(t, tensor.Float32, []float32{1}), 0))
		require.NoError(t, err)
		sub.Close()
		sub.Close()
		_, err = waited(sub.AllReduce(testutil.Soon(t), tensorOf(t, tensor.Float32, []float32{1}), c10d.Sum))
		require.ErrorIs(t, err, c10d.ErrGroup)
	})
}

func TestAMisusedGroupIsATypedError(t *testing.T) {
	x := tensorOf(t, tensor.Float32, []float32{1})
	cancelled, cancel := context.WithCancel(context.Background())
	cancel()
	closed := tensorOf(t, tensor.Float32, []float32{1})
	closed.Close()
	cases := map[string]struct {
		op   string
		use  func(ctx context.Context) error
		says string
	}{
		"a wrong root":             {"broadcast", func(ctx context.Context) error { _, err := world.Broadcast(ctx, x, 1); return err }, "root 1 of a group of 1"},
		"a negative root":          {"broadcast", func(ctx context.Context) error { _, err := world.Broadcast(ctx, x, -1); return err }, "root -1"},
		"too few outputs":          {"all_gather", func(ctx context.Context) error { _, err := world.AllGather(ctx, nil, x); return err }, "0 outputs for 1 ranks"},
		"an unknown operation":     {"all_reduce", func(ctx context.Context) error { _, err := world.AllReduce(ctx, x, "MEDIAN"); return err }, "MEDIAN"},
		"a closed tensor":          {"all_reduce", func(ctx context.Context) error { _, err := world.AllReduce(ctx, closed, c10d.Sum); return err }, "used after Close"},
		"a cancelled context":      {"all_reduce", func(context.Context) error { _, err := world.AllReduce(cancelled, x, c10d.Sum); return err }, "context canceled"},
		"a barrier when cancelled": {"barrier", func(context.Context) error { return world.Barrier(cancelled) }, "context canceled"},
		"a rank that is not":       {"making a sub-group", func(context.Context) error { _, err := world.NewGroup(t.Context(), []int{0, 5}); return err }, ""},
		"no ranks":                 {"making a sub-group", func(context.Context) error { _, err := world.NewGroup(t.Context(), nil); return err }, "no ranks"},
		"a rank twice":             {"making a sub-group", func(context.Context) error { _, err := world.NewGroup(t.Context(), []int{0, 0}); return err }, "rank 0 is twice in [0 0]"},
		"no tensor":                {"all_reduce", func(ctx context.Context) error { _, err := world.AllReduce(ctx, nil, c10d.Sum); return err }, "the tensor is nil"},
		"no input":                 {"all_gather", func(ctx context.Context) error { _, err := world.AllGather(ctx, []*tensor.Tensor{x}, nil); return err }, "the tensor is nil"},
		"a second default group": {"joining", func(ctx context.Context) error {
			_, err := rt.InitProcessGroup(ctx, GroupConfig{Backend: "gloo", Rank: 0, Size: 1})
			return err
		}, "has a default process group already"},
		"joining when cancelled": {"joining", func(context.Context) error { _, err := rt.InitProcessGroup(cancelled, GroupConfig{}); return err }, "context canceled"},
	}
	for name, c := range cases {
		check(t, name, func(t *testing.T) {
			err := c.use(testutil.Soon(t))
			require.ErrorIs(t, err, c10d.ErrGroup)
			require.ErrorContains(t, err, c.op+", rank 0: ")
			require.ErrorContains(t, err, c.says)
			if strings.HasPrefix(c.says, "context ") {
				require.ErrorIs(t, err, context.Canceled)
			}
		})
	}
	check(t, "and the group still works", func(t *testing.T) {
		_, err := waited(world.AllReduce(testutil.Soon(t), x, c10d.Sum))
		require.NoError(t, err)
	})
}

func TestTheDTypesOfABackendAreTried(t *testing.T) {
	dtypes, err := world.DTypes(t.Context())
	require.NoError(t, err)
	for _, always := range []string{"float64", "float32", "int64", "int32", "uint8"} {
		assert.Empty(t, dtypes[always], always)
	}
	t.Log(dtypes)
	for name, refusal := range dtypes {
		dtype, err := tensor.ParseDType(name)
		if err != nil || dtype == tensor.Bool || dtype.IsFloat8() {
			continue
		}
		check(t, name, func(t *testing.T) {
			_, err := waited(world.AllReduce(testutil.Soon(t), tensorOf(t, dtype, []float32{1}), c10d.Sum))
			if refusal == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorIs(t, err, c10d.ErrGroup)
			require.ErrorContains(t, err, "all_reduce, rank 0: the process group failed: ")
			require.ErrorContains(t, err, "hint: "+dtypeHint)
		})
	}
}

func TestGoHooksOnAGroupOfOne(t *testing.T) {
	all := []c10d.CommHook{&hooks.AllReduceCommHook{Group: world}}
	if dtypes, err := world.DTypes(t.Context()); err == nil && dtypes["float16"] == "" {
		all = append(all, &hooks.FP16CompressCommHook{Group: world})
	}
	for _, h := range all {
		check(t, fmt.Sprintf("%T", h), func(t *testing.T) {
			got, err := run(t, h, bucket(t, []float32{1, 2}, []float32{3}))
			require.NoError(t, err)
			assert.Equal(t, []float32{1, 2, 3}, got)
		})
		check(t, fmt.Sprintf("%T of integers", h), func(t *testing.T) {
			buffer := tensorOf(t, tensor.Int64, []float32{1, 2})
			_, err := run(t, h, bucketOf(t, buffer, 2))
			if _, fp16 := h.(*hooks.FP16CompressCommHook); fp16 {
				require.NoError(t, err)
				return
			}
			var e *c10d.Error
			require.ErrorAs(t, err, &e)
			assert.Equal(t, []any{"hook AllReduceCommHook", 0, 2, c10d.ErrRaised}, []any{e.Op, e.Rank, e.Bucket, e.Code})
			require.ErrorContains(t, err, "int64 is not divided")
			assert.Equal(t, []float32{1, 2}, values(t, buffer))
		})
	}
}

func TestAStoreIsClosedOnce(t *testing.T) {
	check(t, "", func(t *testing.T) {
		store, err := rt.NewFileStore(t.Context(), filepath.Join(t.TempDir(), "store"), 1)
		require.NoError(t, err)
		store.Close()
		store.Close()
	})
}
