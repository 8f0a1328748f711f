package pyhook

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/c10d/hooks"
	"pyhook/internal/testutil"
	"pyhook/tensor"
)

func init() {
	children["rank by a file"] = childFileRank
	children["rank by the environment"] = childEnvironmentRank
	children["rank by a TCP store"] = childTCPRank
	children["rank without its peer"] = childLonelyRank
	children["rank without such a backend"] = childNoBackend
}

const (
	storePath = "PYHOOK_TEST_STORE"
	storePort = "PYHOOK_TEST_PORT"
)

// ranks runs a case as two ranks, in processes of their own.
func ranks(t *testing.T, name string, env ...string) {
	t.Helper()
	env = append(env, storePath+"="+filepath.Join(t.TempDir(), "store"), "WORLD_SIZE=2", "GLOO_SOCKET_IFNAME=lo")
	var group sync.WaitGroup
	for rank := range 2 {
		cmd := child(t, name, append(env, "RANK="+strconv.Itoa(rank))...)
		group.Go(func() {
			out, err := cmd.CombinedOutput()
			assert.NoError(t, err, "rank %d said:\n%s", rank, out)
		})
	}
	group.Wait()
}

// started starts the child's runtime; RANK is in its environment.
func started(is *require.Assertions) (*Runtime, int) {
	var err error
	rt, err = Start(context.Background(), Config{Path: []string{"testdata"}})
	is.NoError(err)
	return rt, rt.Rank()
}

func TestTwoRanksReduceByAFile(t *testing.T) { ranks(t, "rank by a file") }

func childFileRank(is *require.Assertions) {
	rt, rank := started(is)
	store, err := rt.NewFileStore(context.Background(), os.Getenv(storePath), 2)
	is.NoError(err)
	world, err = rt.InitProcessGroup(context.Background(), GroupConfig{Backend: "gloo", Store: store, Rank: rank, Size: 2, Timeout: time.Minute})
	is.NoError(err)
	is.Equal([]int{rank, 2}, []int{world.Rank(), world.Size()})
	collectives(is, rank)
	subGroups(is, rank)
	dtypes, err := world.DTypes(context.Background())
	is.NoError(err)
	allReduce, fp16 := &hooks.AllReduceCommHook{Group: world}, &hooks.FP16CompressCommHook{Group: world}
	for i, n := range []int64{1, 7, 1000, 100_003} {
		sameBits(is, "allreduce", allReduce, tensor.Float32, n, rank)
		sameBits(is, "allreduce", allReduce, tensor.Float64, n, rank)
		if dtypes["float16"] == "" {
			sameBits(is, "fp16", fp16, tensor.Float32, n, rank)
			sameBits(is, "fp16", fp16, tensor.Float64, n, rank)
			sameBits(is, "fp16", fp16, tensor.Float16, n, rank)
		} else if i == 0 {
			_, err := reduced(is, fp16, tensor.Float32, n, rank)
			is.ErrorContains(err, dtypeHint)
			is.ErrorContains(err, fmt.Sprintf("rank %d, bucket 0", rank))
		}
	}
	is.NoError(world.Barrier(context.Background()))
	is.NoError(rt.Close())
	is.NoError(rt.Close())
	_, err = waited(world.AllReduce(context.Background(), must(is, 1), c10d.Sum))
	is.ErrorIs(err, c10d.ErrGroup)
	store.Close()
}

func must(is *require.Assertions, v ...float32) *tensor.Tensor {
	t, err := tensor.FromSlice(v)
	is.NoError(err)
	return t
}

func collectives(is *require.Assertions, rank int) {
	ctx := context.Background()
	read := func(t *tensor.Tensor) []float32 {
		s, err := tensor.Slice[float32](t)
		is.NoError(err)
		return s
	}
	mine := float32(rank + 1)
	for _, c := range []struct {
		op   c10d.ReduceOp
		want []float32
	}{{c10d.Sum, []float32{3, 20}}, {c10d.Product, []float32{2, 100}}, {c10d.Min, []float32{1, 10}}, {c10d.Max, []float32{2, 10}}} {
		got, err := waited(world.AllReduce(ctx, must(is, mine, 10), c.op))
		is.NoError(err)
		is.Equal(c.want, read(got), c.op)
	}
	for root := range 2 {
		got, err := waited(world.Broadcast(ctx, must(is, mine), root))
		is.NoError(err)
		is.Equal([]float32{float32(root + 1)}, read(got))
	}
	out := []*tensor.Tensor{must(is, 0, 0), must(is, 0, 0)}
	_, err := waited(world.AllGather(ctx, out, must(is, mine, -mine)))
	is.NoError(err)
	is.Equal([][]float32{{1, -1}, {2, -2}}, [][]float32{read(out[0]), read(out[1])})
	_, err = world.Broadcast(ctx, must(is, 1), 2)
	is.ErrorContains(err, "root 2 of a group of 2")
	_, err = world.AllGather(ctx, out[:1], must(is, 1, 2))
	is.ErrorContains(err, "1 outputs for 2 ranks")
	is.NoError(world.Barrier(ctx))
}

// subGroups makes the group of rank 1 alone, and that of both, the other way.
func subGroups(is *require.Assertions, rank int) {
	alone, err := world.NewGroup(context.Background(), []int{1})
	is.NoError(err)
	if rank == 0 {
		is.Nil(alone)
	} else {
		is.Equal([]int{0, 1}, []int{alone.Rank(), alone.Size()})
		_, err := waited(alone.Broadcast(context.Background(), must(is, 5), 0))
		is.NoError(err, "root 0 of the group is rank 1 of all")
		h, err := rt.NewHook(context.Background(), "allreduce", HookConfig{State: alone})
		is.NoError(err)
		h.Close()
		alone.Close()
	}
	both, err := world.NewGroup(context.Background(), []int{0, 1})
	is.NoError(err)
	defer both.Close()
	x := must(is, float32(rank))
	got, err := waited(both.Broadcast(context.Background(), x, 1))
	is.NoError(err)
	s, err := tensor.Slice[float32](got)
	is.NoError(err)
	is.Equal([]float32{1}, s)
	is.NoError(both.Barrier(context.Background()))
}

// reduced runs the hook on the rank's data.
func reduced(is *require.Assertions, h c10d.CommHook, dtype tensor.DType, n int64, rank int) ([]byte, error) {
	random := rand.New(rand.NewPCG(uint64(n), uint64(rank)))
	wide := make([]float64, n)
	for i := range wide {
		wide[i] = random.NormFloat64() * []float64{1e-7, 1, 300}[i%3]
	}
	from, err := tensor.FromSlice(wide)
	is.NoError(err)
	defer from.Close()
	buffer, err := tensor.New(dtype, n)
	is.NoError(err)
	defer buffer.Close()
	is.NoError(tensor.Copy(buffer, from))
	b, err := c10d.NewGradBucket(c10d.BucketConfig{Index: 0, Count: 1, Buffer: buffer, Offsets: []int64{0}, Lengths: []int64{n}, Sizes: [][]int64{{n}}})
	is.NoError(err)
	defer b.Close()
	future, err := h.RunHook(context.Background(), b)
	if err != nil {
		return nil, err
	}
	defer future.Close()
	value, err := future.Wait(context.Background())
	if err != nil {
		return nil, err
	}
	result, err := h.ParseHookResult(b, value)
	is.NoError(err)
	defer result.Close()
	is.Equal(dtype, result.DType())
	bits, err := tensor.RawBytes(result)
	is.NoError(err)
	return bytes.Clone(bits), nil
}

func sameBits(is *require.Assertions, spec string, native c10d.CommHook, dtype tensor.DType, n int64, rank int) {
	h, err := rt.NewHook(context.Background(), spec, HookConfig{})
	is.NoError(err)
	defer h.Close()
	want, err := reduced(is, h, dtype, n, rank)
	is.NoError(err)
	got, err := reduced(is, native, dtype, n, rank)
	is.NoError(err)
	is.True(bytes.Equal(want, got), "%s of %d %s", spec, n, dtype)
}

func TestTwoRanksFindEachOtherByTheEnvironment(t *testing.T) {
	ranks(t, "rank by the environment", "MASTER_ADDR=127.0.0.1", "MASTER_PORT="+testutil.FreePort(t))
}

func childEnvironmentRank(is *require.Assertions) {
	rt, rank := started(is)
	var err error
	world, err = rt.InitProcessGroup(context.Background(), GroupConfig{Timeout: time.Minute})
	is.NoError(err)
	is.Equal([]int{rank, 2}, []int{world.Rank(), world.Size()})
	is.NoError(world.Barrier(context.Background()))
}

func TestTwoRanksFindEachOtherByATCPStore(t *testing.T) {
	ranks(t, "rank by a TCP store", storePort+"="+testutil.FreePort(t))
}

func childTCPRank(is *require.Assertions) {
	rt, rank := started(is)
	port, err := strconv.Atoi(os.Getenv(storePort))
	is.NoError(err)
	store, err := rt.NewTCPStore(context.Background(), "127.0.0.1", port, 2, rank == 0, time.Minute)
	is.NoError(err)
	world, err = rt.InitProcessGroup(context.Background(), GroupConfig{Backend: "gloo", Store: store, Rank: rank, Size: 2, Timeout: 3 * time.Second})
	is.NoError(err)
	is.NoError(world.Barrier(context.Background()))
	if rank == 0 {
		// The other does not come: the collective's own time limit ends it.
		ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
		defer cancel()
		future, err := world.AllReduce(context.Background(), must(is, 1), c10d.Sum)
		is.NoError(err)
		_, err = future.Wait(ctx)
		is.ErrorIs(err, context.DeadlineExceeded)
		is.ErrorContains(err, "all_reduce, rank 0: the process group failed: ")
		_, err = future.Wait(context.Background())
		is.ErrorIs(err, c10d.ErrGroup)
	} else {
		time.Sleep(4 * time.Second)
	}
}

func TestARankWhosePeerIsMissingGivesUp(t *testing.T) {
	runChild(t, "rank without its peer", storePath+"="+filepath.Join(t.TempDir(), "store"), "RANK=0")
}

func childLonelyRank(is *require.Assertions) {
	rt, _ := started(is)
	store, err := rt.NewFileStore(context.Background(), os.Getenv(storePath), 2)
	is.NoError(err)
	begin := time.Now()
	_, err = rt.InitProcessGroup(context.Background(), GroupConfig{Backend: "gloo", Store: store, Rank: 0, Size: 2, Timeout: time.Second})
	is.ErrorIs(err, c10d.ErrGroup)
	is.Less(time.Since(begin), 30*time.Second)
	var python *PythonError
	is.ErrorAs(err, &python)
	is.Equal("timeout", python.Fields["code"], "%v", err)
	is.ErrorContains(err, "joining, rank 0: not all ranks came in time: ")
	is.ErrorContains(err, "hint: were all ranks started")
	_, err = rt.NewTCPStore(context.Background(), "127.0.0.1", 1, 2, false, time.Second)
	is.ErrorIs(err, c10d.ErrGroup)
	is.ErrorContains(err, "making a store")
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	begin = time.Now()
	_, err = rt.NewTCPStore(ctx, "127.0.0.1", 1, 2, false, 8*time.Second)
	is.ErrorIs(err, context.DeadlineExceeded)
	is.ErrorContains(err, "making a store, rank 0: ")
	is.Less(time.Since(begin), 5*time.Second)
	is.ErrorContains(rt.Close(), "torch still waits for the other ranks", "it goes on in torch")
}

func TestABackendThatTorchLacksIsNamed(t *testing.T) { runChild(t, "rank without such a backend") }

func childNoBackend(is *require.Assertions) {
	rt, rank := started(is)
	is.Equal(-1, rank, "no RANK, no group")
	h, err := rt.NewHook(context.Background(), "no_such:hook", HookConfig{})
	is.Nil(h)
	is.NotContains(err.Error(), "rank")
	environment, err := rt.Environment()
	is.NoError(err)
	missing := "no_such_backend"
	for backend, there := range environment["backends"].(map[any]any) {
		if there == false {
			missing = backend.(string)
		}
	}
	_, err = rt.InitProcessGroup(context.Background(), GroupConfig{Backend: missing, Rank: 0, Size: 1})
	is.ErrorIs(err, c10d.ErrGroup)
	is.ErrorContains(err, "was built without the backend '"+missing+"'")
	is.ErrorContains(err, "hint: it has ")
	_, err = rt.InitProcessGroup(context.Background(), GroupConfig{Backend: "gloo", InitMethod: "tcp://", Rank: 0, Size: 1})
	is.ErrorIs(err, c10d.ErrGroup)
}
