package memgroup_test

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/c10d/transport"
	"pyhook/c10d/transport/memgroup"
	"pyhook/internal/testutil"
	"pyhook/tensor"
)

// onAll runs f for every rank at once and returns the errors by rank.
func onAll[G any](groups []G, f func(rank int, g G) error) []error {
	errs := make([]error, len(groups))
	var wait sync.WaitGroup
	for rank, g := range groups {
		wait.Go(func() { errs[rank] = f(rank, g) })
	}
	wait.Wait()
	return errs
}

func allOK(t *testing.T, errs []error) {
	t.Helper()
	for rank, err := range errs {
		require.NoError(t, err, "rank %d", rank)
	}
}

func done(future *c10d.Future[*tensor.Tensor], err error) error {
	if err != nil {
		return err
	}
	defer future.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	_, err = future.Wait(ctx)
	return err
}

// members are groups as their interface, for the tests of all kinds of them.
func members[G c10d.ProcessGroup](groups []G) []c10d.ProcessGroup {
	out := make([]c10d.ProcessGroup, len(groups))
	for i, g := range groups {
		out[i] = g
	}
	return out
}

// gatherOnly hides all of a transport but AllGather, made of a ProcessGroup's.
type gatherOnly struct {
	transport.Transport
	transport.AllGatherer
}

// kinds are the ways to a group of this size.
func kinds(t *testing.T, size int) map[string][]c10d.ProcessGroup {
	t.Helper()
	wrap := func(of func(*memgroup.Group) transport.Transport) []c10d.ProcessGroup {
		var out []c10d.ProcessGroup
		for _, g := range memgroup.New(size) {
			t.Cleanup(g.Close)
			made, err := transport.New(of(g), transport.Config{})
			require.NoError(t, err)
			out = append(out, made)
		}
		return out
	}
	return map[string][]c10d.ProcessGroup{
		"memory":        members(memgroup.New(size)),
		"send and recv": wrap(func(g *memgroup.Group) transport.Transport { return g }),
		"process group": wrap(func(g *memgroup.Group) transport.Transport { return transport.Of(g) }),
		"all-gather": wrap(func(g *memgroup.Group) transport.Transport {
			full := transport.Of(g)
			return gatherOnly{full, full.(transport.AllGatherer)}
		}),
	}
}

func TestAllReduceSumsInTheOrderOfTheRanks(t *testing.T) {
	for _, size := range []int{1, 2, 3, 5} {
		for _, length := range []int{0, 1, 7, 10007} {
			for name, groups := range kinds(t, size) {
				t.Run(fmt.Sprintf("%s, %d ranks, %d elements", name, size, length), func(t *testing.T) {
					data := make([][]float32, size)
					want := make([]float32, length)
					for rank := range data {
						data[rank] = make([]float32, length)
						for i := range data[rank] {
							data[rank][i] = float32(math.Sin(float64(i*7+rank*3))) * float32(math.Pow(10, float64(rank)))
							want[i] += data[rank][i]
						}
					}
					allOK(t, onAll(groups, func(rank int, g c10d.ProcessGroup) error {
						x, err := tensor.FromSlice(data[rank])
						if err != nil {
							return err
						}
						defer x.Close()
						return done(g.AllReduce(t.Context(), x, c10d.Sum))
					}))
					for rank := range data {
						assert.Equal(t, want, data[rank], "rank %d", rank)
					}
				})
			}
		}
	}
}

func TestAvgDividesTheSum(t *testing.T) {
	for name, groups := range kinds(t, 3) {
		t.Run(name, func(t *testing.T) {
			data := [][]float64{{1, 2}, {3, 4}, {5, 9}}
			allOK(t, onAll(groups, func(rank int, g c10d.ProcessGroup) error {
				x, err := tensor.FromSlice(data[rank])
				if err != nil {
					return err
				}
				defer x.Close()
				return done(g.AllReduce(t.Context(), x, transport.Avg))
			}))
			assert.Equal(t, [][]float64{{3, 5}, {3, 5}, {3, 5}}, data)
		})
	}
}

func TestBroadcastAllGatherAndBarrier(t *testing.T) {
	for name, groups := range kinds(t, 3) {
		t.Run(name, func(t *testing.T) {
			allOK(t, onAll(groups, func(rank int, g c10d.ProcessGroup) error {
				mine := []int32{int32(rank), int32(rank * 10)}
				x, err := tensor.FromSlice(mine)
				if err != nil {
					return err
				}
				defer x.Close()
				out := make([]*tensor.Tensor, 3)
				got := make([][]int32, 3)
				for i := range out {
					got[i] = make([]int32, 2)
					if out[i], err = tensor.FromSlice(got[i]); err != nil {
						return err
					}
					defer out[i].Close()
				}
				if err := done(g.AllGather(t.Context(), out, x)); err != nil {
					return err
				}
				assert.Equal(t, [][]int32{{0, 0}, {1, 10}, {2, 20}}, got)
				if err := done(g.Broadcast(t.Context(), x, 2)); err != nil {
					return err
				}
				assert.Equal(t, []int32{2, 20}, mine)
				return g.Barrier(t.Context())
			}))
		})
	}
}

func TestSubGroupsDoNotMeet(t *testing.T) {
	groups := memgroup.New(4)
	allOK(t, onAll(groups, func(rank int, g *memgroup.Group) error {
		odd, err := g.NewGroup([]int{3, 1})
		if err != nil {
			return err
		}
		even, err := g.NewGroup([]int{0, 2})
		if err != nil {
			return err
		}
		mine := even
		if rank%2 == 1 {
			mine = odd
			assert.Nil(t, even)
			assert.Equal(t, map[int]int{1: 1, 3: 0}[rank], odd.Rank())
		}
		for range 50 { // both sub-groups and the whole at once
			sub, all := []float32{float32(rank)}, []float32{float32(rank)}
			x, _ := tensor.FromSlice(sub)
			y, _ := tensor.FromSlice(all)
			first, err := mine.AllReduce(t.Context(), x, c10d.Sum)
			if err != nil {
				return err
			}
			if err := done(g.AllReduce(t.Context(), y, c10d.Sum)); err != nil {
				return err
			}
			if err := done(first, nil); err != nil {
				return err
			}
			assert.Equal(t, []float32{6}, all)
			assert.Equal(t, []float32{float32(2 + 2*(rank%2))}, sub)
			x.Close()
			y.Close()
		}
		return nil
	}))
}

func TestCollectivesRunInTheOrderOfTheCalls(t *testing.T) {
	groups := memgroup.New(2)
	const n = 200
	allOK(t, onAll(groups, func(rank int, g *memgroup.Group) error {
		x, _ := tensor.FromSlice([]int64{1})
		defer x.Close()
		var last *c10d.Future[*tensor.Tensor]
		for range n { // each doubles or sums what the one before left
			var err error
			if last, err = g.AllReduce(t.Context(), x, c10d.Max); err != nil {
				return err
			}
		}
		return done(last, nil)
	}))
}

func TestSendAndRecvMeetByTag(t *testing.T) {
	groups := memgroup.New(2)
	allOK(t, onAll(groups, func(rank int, g *memgroup.Group) error {
		if rank == 0 {
			errs := onAll([]uint64{7, 8}, func(_ int, tag uint64) error {
				return g.Send(t.Context(), 1, transport.Tag{Message: tag}, []byte{byte(tag)})
			})
			return errs[0]
		}
		for _, tag := range []uint64{8, 7} {
			got := []byte{0}
			if err := g.Recv(t.Context(), 0, transport.Tag{Message: tag}, got); err != nil {
				return err
			}
			assert.Equal(t, []byte{byte(tag)}, got)
		}
		return nil
	}))
	errs := onAll(groups, func(rank int, g *memgroup.Group) error {
		if rank == 0 {
			return g.Send(t.Context(), 1, transport.Tag{}, []byte{1, 2})
		}
		return g.Recv(t.Context(), 0, transport.Tag{}, []byte{0})
	})
	for _, err := range errs {
		require.ErrorContains(t, err, "2 bytes are sent where 1 are received")
	}
	require.ErrorContains(t, groups[0].Send(t.Context(), 2, transport.Tag{}, nil), "rank 2 of 2")
}

func TestNothingStaysBehind(t *testing.T) {
	first, err := tensor.FromSlice([]byte{1}) // starts the runtime's goroutines for finalizers and cleanups
	require.NoError(t, err)
	first.Close()
	nothing := func() bool { return tensor.LiveTensors() == 0 && tensor.LiveMemory() == 0 }
	// A slice's memory is let go by a goroutine, a moment after its Close.
	testutil.Eventually(t, nothing, "the tensors of the tests before are freed")
	testutil.NoGoroutines(t, func() {
		groups := memgroup.New(2)
		allOK(t, onAll(groups, func(rank int, g *memgroup.Group) error {
			x, _ := tensor.FromSlice(bytes.Repeat([]byte{1}, 40<<10))
			defer x.Close()
			for range 2000 {
				if err := done(g.AllReduce(t.Context(), x, transport.BOr)); err != nil {
					return err
				}
			}
			return nil
		}))
		for _, g := range groups {
			g.Close()
		}
	})
	testutil.Eventually(t, nothing, "the tensors of this test are freed")
}

func TestATransportMustOfferSomething(t *testing.T) {
	_, err := transport.New(bare{}, transport.Config{})
	require.ErrorContains(t, err, "neither Send and Recv nor AllGather")
	require.ErrorIs(t, err, c10d.ErrGroup)
}

type bare struct{}

func (bare) Rank() int { return 0 }
func (bare) Size() int { return 1 }

func ExampleNew() {
	groups := memgroup.New(3)
	var wait sync.WaitGroup
	sums := make([][]float32, 3)
	for rank, g := range groups {
		sums[rank] = []float32{float32(rank), 10}
		wait.Go(func() {
			x, _ := tensor.FromSlice(sums[rank])
			defer x.Close()
			future, _ := g.AllReduce(context.Background(), x, c10d.Sum)
			defer future.Close()
			_, _ = future.Wait(context.Background())
		})
	}
	wait.Wait()
	fmt.Println(sums[0], sums[2])
	// Output: [3 30] [3 30]
}
