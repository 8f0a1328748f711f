package ddp_test

import (
	"bytes"
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/c10d/hooks"
	"pyhook/ddp"
	"pyhook/internal/testutil"
	"pyhook/tensor"
)

func TestGradientsAreTheMeanOverTheRanks(t *testing.T) {
	for _, size := range []int{2, 4} {
		for _, name := range []string{"AllReduceCommHook", "FP16CompressCommHook"} {
			t.Run(strconv.Itoa(size)+" ranks, "+name, func(t *testing.T) {
				groups := memoryGroups(size)
				onRanks(size, func(rank int) {
					var h c10d.CommHook = &hooks.AllReduceCommHook{Group: groups[rank]}
					if name == "FP16CompressCommHook" {
						h = &hooks.FP16CompressCommHook{Group: groups[rank]}
					}
					meanOverRanks(t, groups[rank], h)
				})
			})
		}
	}
}

// onRanks runs f for each rank on a goroutine of its own.
func onRanks(size int, f func(rank int)) {
	var wait sync.WaitGroup
	for rank := range size {
		wait.Go(func() { f(rank) })
	}
	wait.Wait()
}

func meanOverRanks(t *testing.T, group *memoryGroup, h c10d.CommHook) {
	params := parameters([]int64{3, 2}, nil, []int64{4}, []int64{0}, []int64{1, 5})
	r, err := ddp.NewReducer(testutil.Soon(t), params, ddp.Options{Group: group, Hook: h, BucketCapMB: twoFloats})
	if !assert.NoError(t, err) {
		return
	}
	defer r.Close()
	for step := range 3 {
		for _, i := range []int{4, 3, 2, 1, 0} {
			g := floats(r.Gradient(i))
			for k := range g {
				g[k] = float32((group.rank + 1) * (step + i + k)) // whole numbers: exact in half precision
			}
			assert.NoError(t, r.Ready(i))
		}
		_, err := r.Wait(testutil.Soon(t))
		assert.NoError(t, err)
		mean := float32(group.Size()+1) / 2
		for i := range params {
			for k, got := range floats(r.Gradient(i)) {
				assert.Equal(t, mean*float32(step+i+k), got, "step %d, parameter %d, element %d", step, i, k)
			}
		}
	}
}

func TestAHundredSchedulesOfManyGoroutines(t *testing.T) {
	const size, n = 2, 12
	noLeaks(t, func() {
		for seed := range uint64(often(100)) {
			groups := memoryGroups(size)
			groups[0].seededDelay(seed, 100*time.Microsecond)
			orders := []ddp.Order{ddp.OrderAuto, ddp.OrderSerial, ddp.OrderOverlapped}
			onRanks(size, func(rank int) {
				oneSchedule(t, groups[rank], orders[seed%3], rand.New(rand.NewPCG(seed, uint64(rank))), n)
			})
		}
	})
}

// oneSchedule marks n parameters from n goroutines, in random order with random
// delays, some in the reducer's memory and some in their own.
func oneSchedule(t *testing.T, group *memoryGroup, order ddp.Order, random *rand.Rand, n int) {
	r, err := ddp.NewReducer(testutil.Soon(t), scalars(n), ddp.Options{Group: group, BucketCapMB: twoFloats, Order: order, SkipVerify: true})
	if !assert.NoError(t, err) {
		return
	}
	defer r.Close()
	for range 3 {
		own := make([][]float32, n)
		var marking sync.WaitGroup
		for _, i := range random.Perm(n) {
			delay := time.Duration(random.Int64N(50_000))
			if random.IntN(2) == 0 {
				own[i] = []float32{float32(group.rank * (i + 1))}
			}
			marking.Go(func() {
				time.Sleep(delay)
				if own[i] == nil {
					floats(r.Gradient(i))[0] = float32(group.rank * (i + 1))
					assert.NoError(t, r.Ready(i))
					return
				}
				grad := must(tensor.FromSlice(own[i]))
				defer grad.Close() // the reducer keeps the memory
				assert.NoError(t, r.ReadyFrom(i, grad))
			})
		}
		marking.Wait()
		_, err := r.Wait(testutil.Soon(t))
		assert.NoError(t, err)
		for i := range n {
			want := float32(i+1) / 2
			assert.Equal(t, want, floats(r.Gradient(i))[0])
			if own[i] != nil {
				assert.Equal(t, want, own[i][0])
			}
		}
	}
}

func goroutine() string {
	stack := make([]byte, 64)
	return string(bytes.Fields(stack[:runtime.Stack(stack, false)])[1])
}

func TestHooksAreCalledInBucketOrderAndNotByTheMarker(t *testing.T) {
	const n = 8
	var calls []int
	var callers []string
	h := hook{run: func(ctx context.Context, b *c10d.GradBucket) (*c10d.Future[c10d.Result], error) {
		calls, callers = append(calls, b.Index()), append(callers, goroutine())
		return identity(ctx, b)
	}}
	r := reducer(t, scalars(n), ddp.Options{Hook: h, BucketCapMB: tiny, Order: ddp.OrderOverlapped})
	require.Len(t, r.Buckets(), n)
	for seed := range uint64(20) {
		calls, callers = nil, nil
		for _, i := range rand.New(rand.NewPCG(seed, 0)).Perm(n) {
			set(t, r, i, 1)
		}
		_, err := r.Wait(testutil.Soon(t))
		require.NoError(t, err)
		require.Equal(t, []int{0, 1, 2, 3, 4, 5, 6, 7}, calls)
		require.NotContains(t, callers, goroutine())
	}
}

func TestHooksStartBeforeTheLastGradientIsThere(t *testing.T) {
	g := newGate()
	r := reducer(t, scalars(3), ddp.Options{Hook: g, BucketCapMB: tiny, Order: ddp.OrderOverlapped})
	set(t, r, 1, 1)
	g.idle(t) // bucket 0 is parameter 2's
	set(t, r, 2, 1)
	g.called(t, 0)
	g.called(t, 1)
	g.idle(t)
	set(t, r, 0, 1)
	g.called(t, 2)
	for _, bucket := range []int{1, 2, 0} {
		g.complete(bucket, r.Gradient(2-bucket), nil)
	}
	_, err := r.Wait(testutil.Soon(t))
	require.NoError(t, err)
}

func TestSerialWaitsForEachFutureAndOverlappedDoesNot(t *testing.T) {
	for _, serial := range []bool{true, false} {
		g := newGate()
		order := ddp.OrderOverlapped
		if serial {
			order = ddp.OrderSerial
		}
		r := reducer(t, scalars(3), ddp.Options{Hook: g, BucketCapMB: tiny, Order: order})
		assert.Equal(t, order, r.Order())
		setAll(t, r, 3)
		for bucket := range 3 {
			g.called(t, bucket)
			if serial {
				g.idle(t)
				g.complete(bucket, r.Gradient(2-bucket), nil)
			}
		}
		for bucket := range 3 {
			g.complete(bucket, r.Gradient(2-bucket), nil)
		}
		_, err := r.Wait(testutil.Soon(t))
		require.NoError(t, err)
	}
}

// backend is a group of another name.
type backend struct {
	*memoryGroup
	name string
}

func (b backend) Backend() string { return b.name }

func TestAutoOverlapsWhereItIsSafe(t *testing.T) {
	for _, c := range []struct {
		backend string
		hook    c10d.CommHook
		order   ddp.Order
	}{
		{"gloo", hook{run: identity}, ddp.OrderSerial},
		{"gloo", nil, ddp.OrderOverlapped}, // the default hook says so itself
		{"gloo", &hooks.FP16CompressCommHook{}, ddp.OrderOverlapped},
		{"gloo", chained{}, ddp.OrderSerial},
		{"gloo", independent{says: true}, ddp.OrderOrdered},
		{"gloo", independent{}, ddp.OrderSerial},
		{"nccl", chained{}, ddp.OrderOverlapped},
		{"nccl", independent{says: true}, ddp.OrderOverlapped},
		{"nccl", hook{run: identity}, ddp.OrderOverlapped},
		{"cpu:gloo,cuda:nccl", hook{run: identity}, ddp.OrderSerial}, // our buckets are the CPU's
	} {
		r := reducer(t, scalars(1), ddp.Options{Group: backend{memoryGroups(1)[0], c.backend}, Hook: c.hook})
		assert.Equal(t, c.order, r.Order(), "%s, %T", c.backend, c.hook)
	}
}

func TestOrderedIsRefusedForAHookThatCannot(t *testing.T) {
	_, err := ddp.NewReducer(testutil.Soon(t), scalars(1), ddp.Options{Group: memoryGroups(1)[0], Hook: hook{run: identity}, Order: ddp.OrderOrdered})
	assert.ErrorContains(t, err, "ChainedHook")
}

func TestTimingsAreTheReductionsAndNotTheBackwardPasss(t *testing.T) {
	g := newGate()
	r := reducer(t, scalars(2), ddp.Options{Hook: g, BucketCapMB: tiny, Order: ddp.OrderOverlapped})
	set(t, r, 1, 1)
	g.called(t, 0)
	g.complete(0, r.Gradient(1), nil)
	const backward = 300 * time.Millisecond
	time.Sleep(backward)
	set(t, r, 0, 1)
	g.called(t, 1)
	time.Sleep(backward)
	g.complete(1, r.Gradient(0), nil)
	timings, err := r.Wait(testutil.Soon(t))
	require.NoError(t, err)
	require.Len(t, timings, 2)
	assert.Less(t, timings[0].Total, backward)
	assert.GreaterOrEqual(t, timings[1].Total, backward)
	assert.Equal(t, 1, timings[1].Bucket)
	assert.Equal(t, int64(4), timings[1].Bytes)
	assert.LessOrEqual(t, timings[0].Call, timings[0].Total)
}

func TestBucketsAreFilledFromTheLastParameter(t *testing.T) {
	for _, c := range []struct {
		name       string
		cap, first float64
		want       [][]int
	}{
		{"the defaults hold a small model in one bucket", 0, 0, [][]int{{4, 3, 2, 1, 0}}},
		{"the first bucket is not beyond the cap", twoFloats, 0, [][]int{{4, 3}, {2, 1}, {0}}},
		{"unless it is asked to be", twoFloats, 2 * twoFloats, [][]int{{4, 3, 2, 1}, {0}}},
		{"a small first bucket", 1, tiny, [][]int{{4}, {3, 2, 1, 0}}},
		{"no limit at all", math.Inf(1), math.Inf(1), [][]int{{4, 3, 2, 1, 0}}},
		{"the default", 0, 0, [][]int{{4, 3, 2, 1, 0}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := reducer(t, scalars(5), ddp.Options{BucketCapMB: c.cap, FirstBucketMB: c.first})
			assert.Equal(t, c.want, r.Buckets())
			stepWorks(t, r, 5)
		})
	}
}

func TestParametersOfEveryKindAreReduced(t *testing.T) {
	params := parameters(nil, []int64{0}, []int64{0, 3}, []int64{1 << 20}, []int64{2})
	params[2].DType = tensor.Float64 // alone of its dtype: a bucket of nothing
	half := &c10d.Parameter{Name: "half", Shape: []int64{3}, DType: tensor.BFloat16}
	params = append(params, half)
	groups := memoryGroups(2)
	onRanks(2, func(rank int) {
		r, err := ddp.NewReducer(testutil.Soon(t), params, ddp.Options{Group: groups[rank], BucketCapMB: 1})
		if !assert.NoError(t, err) {
			return
		}
		defer r.Close()
		for i, p := range params {
			grad := must(tensor.New(tensor.Float64, p.Shape...))
			defer grad.Close()
			elements := must(tensor.Slice[float64](grad))
			for k := range elements {
				elements[k] = float64(rank * 2)
			}
			assert.NoError(t, r.ReadyFrom(i, grad))
			defer func() {
				for _, x := range elements {
					if x != 1 {
						assert.Equal(t, 1.0, x, p.Name)
						return
					}
				}
			}()
		}
		_, err = r.Wait(testutil.Soon(t))
		assert.NoError(t, err)
	})
}

func TestAReducerNeedsAGroupAndParameters(t *testing.T) {
	group := memoryGroups(1)[0]
	noLeaks(t, func() {
		for _, c := range []struct {
			opts   ddp.Options
			params []*c10d.Parameter
			want   string
		}{
			{ddp.Options{}, scalars(1), "(Options.Group) is nil"},
			{ddp.Options{Group: group}, nil, "no parameters"},
			{ddp.Options{Group: group}, append(scalars(1), nil), "parameter 1 is nil"},
			{ddp.Options{Group: group}, parameters([]int64{2}, []int64{-1}), "negative size"},
			{ddp.Options{Group: group}, parameters([]int64{2}, []int64{1 << 40, 1 << 40}), "too many elements"},
			{ddp.Options{Group: group}, []*c10d.Parameter{{Name: "untyped", Shape: []int64{1}}}, "untyped: it has no DType"},
		} {
			_, err := ddp.NewReducer(testutil.Soon(t), c.params, c.opts)
			require.ErrorContains(t, err, c.want)
		}
		group.fail = errors.New("no network")
		_, err := ddp.NewReducer(testutil.Soon(t), scalars(1), ddp.Options{Group: group})
		require.ErrorIs(t, err, group.fail)
	})
}
