package hooks_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/c10d/hooks"
	"pyhook/c10d/transport/memgroup"
	"pyhook/internal/testutil"
	"pyhook/tensor"
)

// bucketOf makes the third of four buckets, of one gradient.
func bucketOf(t *testing.T, buffer *tensor.Tensor) *c10d.GradBucket {
	t.Helper()
	n := buffer.Len()
	b, err := c10d.NewGradBucket(c10d.BucketConfig{Index: 2, Count: 4, Buffer: buffer, Offsets: []int64{0}, Lengths: []int64{n}, Sizes: [][]int64{{n}}})
	require.NoError(t, err)
	t.Cleanup(b.Close)
	return b
}

// run calls the hook and returns the flat result, which the caller closes.
func run(h c10d.CommHook, b *c10d.GradBucket) (*tensor.Tensor, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	future, err := h.RunHook(ctx, b)
	if err != nil {
		return nil, err
	}
	defer future.Close()
	result, err := future.Wait(ctx)
	if err != nil {
		return nil, err
	}
	return h.ParseHookResult(b, result)
}

// noLeaks is t.Run that asserts that f leaves no tensors.
func noLeaks(t *testing.T, name string, f func(t *testing.T)) {
	t.Helper()
	tensors, memory := tensor.LiveTensors(), tensor.LiveMemory()
	t.Run(name, f)
	clean := func() bool { return tensor.LiveTensors() == tensors && tensor.LiveMemory() == memory }
	testutil.Eventually(t, clean, "tensors and memory: %d and %d before", tensors, memory)
}

func given[T tensor.Element](t *testing.T, values ...T) *tensor.Tensor {
	t.Helper()
	x, err := tensor.FromSlice(values)
	require.NoError(t, err)
	t.Cleanup(x.Close)
	return x
}

func TestHooksOnAGroupOfOne(t *testing.T) {
	group := memgroup.New(1)[0]
	defer group.Close()
	for _, h := range []c10d.CommHook{&hooks.AllReduceCommHook{Group: group}, &hooks.FP16CompressCommHook{Group: group}} {
		noLeaks(t, fmt.Sprintf("%T", h), func(t *testing.T) {
			result, err := run(h, bucketOf(t, given[float32](t, 1, 2, 3)))
			require.NoError(t, err)
			defer result.Close()
			got, err := tensor.Slice[float32](result)
			require.NoError(t, err)
			assert.Equal(t, []float32{1, 2, 3}, got)
		})
		noLeaks(t, fmt.Sprintf("%T of integers", h), func(t *testing.T) {
			buffer := given[int64](t, 1, 2)
			result, err := run(h, bucketOf(t, buffer))
			if _, fp16 := h.(*hooks.FP16CompressCommHook); fp16 {
				require.NoError(t, err)
				result.Close()
				return
			}
			var e *c10d.Error
			require.ErrorAs(t, err, &e)
			assert.Equal(t, []any{"hook AllReduceCommHook", 0, 2, c10d.ErrRaised}, []any{e.Op, e.Rank, e.Bucket, e.Code})
			require.ErrorContains(t, err, "int64 is not divided")
			got, err := tensor.Slice[int64](buffer)
			require.NoError(t, err)
			assert.Equal(t, []int64{1, 2}, got)
		})
		noLeaks(t, fmt.Sprintf("%T is given another's result", h), func(t *testing.T) {
			for _, other := range []c10d.Result{nil, c10d.TensorResult{}, c10d.SparseResult{}} {
				_, err := h.ParseHookResult(bucketOf(t, given[float32](t, 1)), other)
				require.ErrorIs(t, err, c10d.ErrNotTensor)
				var e *c10d.Error
				require.ErrorAs(t, err, &e)
				assert.Contains(t, e.Op, "CommHook", "the hook")
				assert.Equal(t, []any{0, 2, c10d.ErrNotTensor}, []any{e.Rank, e.Bucket, e.Code}, "rank, bucket, code")
				assert.NotEmpty(t, e.Hint)
			}
		})
	}
	noLeaks(t, "imaginary parts are not lost", func(t *testing.T) {
		buffer := given[complex64](t, 1+2i, 3-4i)
		_, err := run(&hooks.FP16CompressCommHook{Group: group}, bucketOf(t, buffer))
		require.ErrorIs(t, err, c10d.ErrComplex)
		got, err := tensor.Slice[complex64](buffer)
		require.NoError(t, err)
		assert.Equal(t, []complex64{1 + 2i, 3 - 4i}, got)
	})
}

func TestHooksAverageOverTheRanks(t *testing.T) {
	groups := memgroup.New(2)
	for _, name := range []string{"AllReduceCommHook", "FP16CompressCommHook"} {
		noLeaks(t, name, func(t *testing.T) {
			results := make([]*tensor.Tensor, len(groups))
			errs := make(chan error, len(groups))
			for rank, group := range groups {
				h := c10d.CommHook(&hooks.AllReduceCommHook{Group: group})
				if name == "FP16CompressCommHook" {
					h = &hooks.FP16CompressCommHook{Group: group}
				}
				b := bucketOf(t, given(t, float32(rank), 3))
				go func() {
					var err error
					results[rank], err = run(h, b)
					errs <- err
				}()
			}
			for range groups {
				require.NoError(t, <-errs)
			}
			for _, result := range results {
				got, err := tensor.Slice[float32](result)
				require.NoError(t, err)
				assert.Equal(t, []float32{0.5, 3}, got)
				result.Close()
			}
		})
	}
}

// failing is a group whose collectives fail, at once or later.
type failing struct {
	c10d.ProcessGroup
	late bool
}

func (g failing) AllReduce(context.Context, *tensor.Tensor, c10d.ReduceOp) (*c10d.Future[*tensor.Tensor], error) {
	err := &c10d.Error{Op: "all_reduce", Rank: 0, Bucket: -1, Code: c10d.ErrGroup, Also: []c10d.Code{c10d.ErrDeadline}, Err: context.DeadlineExceeded}
	if !g.late {
		return nil, err
	}
	future, complete := c10d.NewFuture[*tensor.Tensor]()
	time.AfterFunc(time.Millisecond, func() { complete(nil, err) })
	return future, nil
}

func TestCommHooks_RunHook_failureNamesHookRankAndBucket(t *testing.T) {
	one := memgroup.New(1)[0]
	defer one.Close()
	for _, late := range []bool{false, true} {
		group := failing{one, late}
		for name, h := range map[string]c10d.CommHook{"AllReduceCommHook": &hooks.AllReduceCommHook{Group: group}, "FP16CompressCommHook": &hooks.FP16CompressCommHook{Group: group}} {
			noLeaks(t, fmt.Sprintf("%s, late: %v", name, late), func(t *testing.T) {
				_, err := run(h, bucketOf(t, given[float32](t, 1)))
				var e *c10d.Error
				require.ErrorAs(t, err, &e)
				require.ErrorIs(t, err, context.DeadlineExceeded)
				require.ErrorIs(t, err, c10d.ErrGroup)
				assert.Equal(t, []any{"hook " + name, 0, 2}, []any{e.Op, e.Rank, e.Bucket})
				assert.NotEmpty(t, e.Hint)
				require.ErrorContains(t, err, "hook "+name+", rank 0, bucket 2: ")
				require.ErrorContains(t, err, "\nhint: "+e.Hint)
			})
		}
	}
}

func TestCommHooks_RunHook_withoutAGroup(t *testing.T) {
	for name, h := range map[string]c10d.CommHook{"AllReduceCommHook": &hooks.AllReduceCommHook{}, "FP16CompressCommHook": &hooks.FP16CompressCommHook{}} {
		_, err := run(h, bucketOf(t, given[float32](t, 1, 2)))
		require.ErrorContains(t, err, "hook "+name+", bucket 2: ")
		require.ErrorContains(t, err, "its Group is nil")
	}
}
