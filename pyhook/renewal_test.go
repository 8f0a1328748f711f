package pyhook

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/cbridge"
	"pyhook/internal/debuggc"
	"pyhook/internal/testutil"
	"pyhook/tensor"
)

func init() {
	children["renewed groups"] = childRenewed
	children["a renewal that cannot be"] = childNotRenewed
}

// someRanks runs a case as so many ranks, in processes of their own, and returns what they wrote.
func someRanks(t *testing.T, size int, name string, env ...string) {
	t.Helper()
	env = append(env, storePath+"="+filepath.Join(t.TempDir(), "store"), "WORLD_SIZE="+strconv.Itoa(size), "GLOO_SOCKET_IFNAME=lo")
	var group sync.WaitGroup
	for rank := range size {
		cmd := childWithin(t, 5*time.Minute, name, append(env, "RANK="+strconv.Itoa(rank))...)
		group.Go(func() {
			out, err := cmd.CombinedOutput()
			assert.NoError(t, err, "rank %d said:\n%s", rank, out)
			t.Logf("rank %d: %s", rank, out)
		})
	}
	group.Wait()
}

func TestTorchGroup_Renewal(t *testing.T) {
	for _, size := range []int{2, 3} {
		t.Run(fmt.Sprintf("%d ranks retire and renew their groups, wherever they are held", size), func(t *testing.T) {
			someRanks(t, size, "renewed groups", fmt.Sprintf("PYHOOK_TEST_CYCLES=%d", testutil.Scale{Race: 2}.Of(10)))
		})
	}
	t.Run("and where they met by the environment", func(t *testing.T) {
		someRanks(t, 2, "renewed groups", "PYHOOK_TEST_CYCLES=3", "MASTER_ADDR=127.0.0.1", "MASTER_PORT="+testutil.FreePort(t))
	})
	t.Run("what keeps groups from being renewed is named", func(t *testing.T) {
		someRanks(t, 2, "a renewal that cannot be")
	})
}

// joinedRank joins by the environment or by a file.
func joinedRank(is *require.Assertions) (rank, size int) {
	rt, rank = started(is)
	size, err := strconv.Atoi(os.Getenv("WORLD_SIZE"))
	is.NoError(err)
	cfg := GroupConfig{Backend: "gloo", Timeout: 20 * time.Second}
	if os.Getenv("MASTER_PORT") == "" {
		cfg.Rank, cfg.Size = rank, size
		cfg.Store, err = rt.NewFileStore(context.Background(), os.Getenv(storePath), size)
		is.NoError(err)
	}
	world, err = rt.InitProcessGroup(context.Background(), cfg)
	is.NoError(err)
	is.NoError(world.Barrier(context.Background())) // a rank that retires its group fails one that still connects
	return rank, size
}

// renewedHook is one that holds a group in some place.
type renewedHook struct {
	name string
	hook *PythonCommHook
	sum  float32
}

// ones makes a bucket that is full of rank + 1.
func ones(is *require.Assertions, rank int) *c10d.GradBucket {
	buffer, err := tensor.New(tensor.Float32, 8)
	is.NoError(err)
	data, err := tensor.Slice[float32](buffer)
	is.NoError(err)
	for i := range data {
		data[i] = float32(rank + 1)
	}
	b, err := c10d.NewGradBucket(c10d.BucketConfig{Count: 1, Buffer: buffer, Offsets: []int64{0}, Lengths: []int64{8}, Sizes: [][]int64{{8}}})
	is.NoError(err)
	return b
}

// check runs the hook and checks the sum.
func (h renewedHook) check(is *require.Assertions, rank int) {
	b := ones(is, rank)
	defer b.Buffer().Close()
	defer b.Close()
	future, err := h.hook.RunHook(context.Background(), b)
	is.NoError(err, h.name)
	defer future.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	value, err := future.Wait(ctx)
	is.NoError(err, h.name)
	result, err := h.hook.ParseHookResult(b, value)
	is.NoError(err, h.name)
	defer result.Close()
	data, err := tensor.Slice[float32](result)
	is.NoError(err)
	for _, x := range data {
		is.Equal(h.sum, x, h.name)
	}
}

func renewedHooks(is *require.Assertions, rank, size int) (all []renewedHook) {
	ctx := context.Background()
	ranks := make([]int, size)
	for i := range ranks {
		ranks[i] = i
	}
	everyone, err := world.NewGroup(ctx, ranks)
	is.NoError(err)
	alone, err := world.NewGroup(ctx, []int{size - 1})
	is.NoError(err)
	sum := float32(size * (size + 1) / 2)
	add := func(spec string, sum float32, cfg HookConfig) {
		h, err := rt.NewHook(ctx, spec, cfg)
		is.NoError(err, spec)
		all = append(all, renewedHook{spec, h, sum})
	}
	add("allreduce", sum/float32(size), HookConfig{})
	add("allreduce", sum/float32(size), HookConfig{State: everyone})
	add("powersgd", sum/float32(size), HookConfig{Group: everyone, State: StateSpec{Spec: "powersgd", Args: map[string]any{"start_powerSGD_iter": 2}}})
	add("renewals:of_state", sum, HookConfig{State: world})
	add("renewals:of_attribute", sum, HookConfig{Group: everyone, State: StateSpec{Spec: "renewals:State"}})
	add("renewals:of_slots", sum, HookConfig{State: StateSpec{Spec: "renewals:Slots"}})
	for _, spec := range []string{"of_closure", "of_partial", "of_module", "of_method", "of_key"} {
		add("renewals:"+spec+"()", sum, HookConfig{})
	}
	if rank == size-1 {
		add("renewals:of_state", float32(size), HookConfig{State: alone})
	}
	add("renewals:blocking", sum, HookConfig{})
	return all
}

// counts is what a cycle leaves as it was.
func counts() []int64 {
	for range 3 {
		runtime.GC()
		_, _ = callPython("gc.collect")
	}
	_, _ = callPython("renewals.threads_at_rest")
	_ = cbridge.Attached(func() {})
	threads, _ := os.ReadDir("/proc/self/task")
	fds, _ := os.ReadDir("/proc/self/fd")
	return []int64{int64(len(threads)), int64(len(fds)), cbridge.LiveObjects(), cbridge.LiveFuncs(), tensor.LiveMemory(), cbridge.Pendings()}
}

func childRenewed(is *require.Assertions) {
	rank, size := joinedRank(is)
	hooks := renewedHooks(is, rank, size)
	for _, h := range hooks {
		h.check(is, rank)
	}
	cycles, err := strconv.Atoi(os.Getenv("PYHOOK_TEST_CYCLES"))
	is.NoError(err)
	renewal := world.Renewal()
	is.Equal(0, renewal.Generation())
	var before []int64
	var took []time.Duration
	for cycle := range cycles {
		if rank == size-1 {
			time.Sleep(100 * time.Millisecond)
			is.NoError(os.WriteFile(retiredAt(cycle), []byte(strconv.FormatInt(time.Now().UnixNano(), 10)), 0o600))
			renewal.Retire()
			renewal.Retire()
		} else {
			waitForTheRetired(is, cycle, rank, hooks[len(hooks)-1].hook)
			renewal.Retire()
		}
		_, err := world.AllReduce(context.Background(), must(is, 1), c10d.Sum)
		is.ErrorIs(err, c10d.ErrOutOfStep)
		is.ErrorIs(world.Barrier(context.Background()), c10d.ErrOutOfStep)
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		begin := time.Now()
		is.NoError(renewal.Renew(ctx), "cycle %d", cycle)
		took = append(took, time.Since(begin))
		cancel()
		is.Equal(cycle+1, renewal.Generation())
		for _, h := range hooks {
			h.check(is, rank)
		}
		if cycle == 4 && cycles > 5 { // there are cycles to compare with
			before = counts()
			is.NoError(world.Barrier(context.Background())) // the last rank's Retire ends connections here too
		}
	}
	if before != nil {
		before[0] += int64(cycles - 6) // threads: Go may start some more, but not one a cycle
		var after []int64
		more := func() bool {
			after = counts()
			for i, n := range after {
				if n > before[i] {
					return true
				}
			}
			return false
		}
		for limit := time.Now().Add(10 * time.Second); more() && time.Now().Before(limit); { // threads that end
			time.Sleep(50 * time.Millisecond)
		}
		for i, n := range after {
			is.LessOrEqual(n, before[i], "threads, descriptors, objects, functions, memory, futures: %v, then %v", before, after)
		}
	}
	slices.Sort(took)
	fmt.Printf("Renew: median %s, most %s\n", took[len(took)/2].Round(time.Millisecond), took[len(took)-1].Round(time.Millisecond))
	is.NoError(world.Barrier(context.Background()))
	is.NoError(rt.Close())
}

// waitForTheRetired waits in collectives for the rank that retires 100 ms later.
func waitForTheRetired(is *require.Assertions, cycle, rank int, blocking *PythonCommHook) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	switch cycle % 3 {
	case 0:
		future, err := world.AllReduce(ctx, must(is, 1), c10d.Sum)
		is.NoError(err)
		_, err = future.Wait(ctx)
		is.ErrorIs(err, c10d.ErrPeer)
		future.Close()
	case 1:
		b := ones(is, rank)
		_, err := blocking.RunHook(ctx, b)
		is.ErrorIs(err, c10d.ErrRaised)
		is.ErrorIs(err, c10d.ErrPeer)
		b.Close()
		b.Buffer().Close()
	case 2:
		h, err := rt.NewHook(ctx, "renewals:of_state", HookConfig{})
		is.NoError(err)
		var futures []*c10d.Future[c10d.Result]
		for range 3 {
			future, err := h.RunHook(ctx, ones(is, rank))
			is.NoError(err)
			futures = append(futures, future)
		}
		for _, future := range futures {
			_, err := future.Wait(ctx)
			is.ErrorIs(err, c10d.ErrPeer)
			future.Close()
		}
		h.Close()
	}
	now := time.Now()
	text, err := os.ReadFile(retiredAt(cycle))
	is.NoError(err)
	at, err := strconv.ParseInt(string(text), 10, 64)
	is.NoError(err)
	is.Less(now.Sub(time.Unix(0, at)), 5*time.Second, "what waits fails at once, and not after the group's timeout of 20 s")
}

// retiredAt is a file with the time at which the last rank retired its groups.
func retiredAt(cycle int) string { return os.Getenv(storePath) + ".retired." + strconv.Itoa(cycle) }

// announce has the ranks that hear it go on.
func announce(is *require.Assertions, what string) {
	is.NoError(os.WriteFile(os.Getenv(storePath)+"."+what, nil, 0o600))
}

func hear(is *require.Assertions, what string) {
	is.Eventually(func() bool {
		_, err := os.Stat(os.Getenv(storePath) + "." + what)
		return err == nil
	}, time.Minute, 10*time.Millisecond)
}

func childNotRenewed(is *require.Assertions) {
	const patience = 3 * time.Second // a loaded machine takes one to end the groups
	rank, _ := joinedRank(is)
	renewal := world.Renewal()
	soon := func(timeout time.Duration) error {
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		defer cancel()
		return renewal.Renew(ctx)
	}
	ok := func() {
		is.NoError(soon(20 * time.Second))
		got, err := waited(world.AllReduce(context.Background(), must(is, float32(rank+1)), c10d.Sum))
		is.NoError(err)
		sum, err := tensor.Slice[float32](got)
		is.NoError(err)
		is.Equal([]float32{3}, sum)
	}

	// A rank that does not come is named, and may come later.
	if rank == 0 {
		err := soon(patience)
		announce(is, "rank 0 is alone")
		is.ErrorIs(err, context.DeadlineExceeded)
		is.ErrorIs(err, c10d.ErrGroup)
		is.ErrorContains(err, "renewing the groups, rank 0: ")
		is.ErrorContains(err, "waiting for rank 1 of 2 to call it")
	} else {
		hear(is, "rank 0 is alone")
	}
	ok()
	is.Equal(1, renewal.Generation())
	if rank == 1 {
		err := soon(patience)
		announce(is, "rank 1 is alone")
		is.ErrorContains(err, "waiting for rank 0 of 2 to call it")
	} else {
		hear(is, "rank 1 is alone")
	}
	ok()

	// What ends an attempt may come late, and ends no later one.
	late, over := rt.renewal.attempts.Load(), make(chan struct{})
	var cancels sync.WaitGroup
	cancels.Go(func() {
		for {
			select {
			case <-over:
				return
			case <-time.After(time.Millisecond):
				_, _ = rt.renewal.object().CallValue("cancel", late)
			}
		}
	})
	ok()
	close(over)
	cancels.Wait()

	// What cannot be replaced is named on all ranks.
	if rank == 1 {
		_, err := callPython("renewals.hold")
		is.NoError(err)
	}
	err := soon(30 * time.Second)
	is.ErrorIs(err, c10d.ErrGroup)
	is.ErrorContains(err, "rank 1 cannot make its groups anew: ")
	is.ErrorContains(err, "renewals.generator")
	if rank == 1 {
		_, err := callPython("renewals.let_go")
		is.NoError(err)
	}
	ok()

	// A call that is inside delays.
	stays, err := rt.NewHook(context.Background(), "renewals:stays", HookConfig{})
	is.NoError(err)
	done := make(chan error, 1)
	go func() {
		future, err := stays.RunHook(context.Background(), ones(is, rank))
		if err == nil {
			_, err = future.Wait(context.Background())
			future.Close()
		}
		done <- err
	}()
	_, err = callPython("renewals.wait_inside")
	is.NoError(err)
	renewal.Retire()
	err = soon(500 * time.Millisecond)
	is.ErrorContains(err, "waiting until a hook call that is inside")
	is.ErrorContains(err, "; in Python stays (")
	_, err = callPython("renewals.set_leave")
	is.NoError(err)
	is.ErrorIs(<-done, c10d.ErrPeer)
	ok()

	// The end of a group waits for its backend's threads, and they for the GIL.
	_, err = callPython("renewals.slow_callback")
	is.NoError(err)
	renewal.Retire()
	ok()

	// A group that has not ended yet delays no later one.
	if rank == 1 {
		_, err = callPython("renewals.stuck_callback")
		is.NoError(err)
		announce(is, "rank 1 is stuck")
	} else {
		hear(is, "rank 1 is stuck") // else its collective may have failed already, and the callback would stay in the test
	}
	for range 2 {
		renewal.Retire()
		ok()
	}
	_, err = callPython("renewals.set_proceed")
	is.NoError(err)

	// A handle that Go code forgets without a Close delays, until it is collected.
	handle, err := world.Object().Clone()
	is.NoError(err)
	renewal.Retire()
	err = soon(500 * time.Millisecond)
	is.ErrorIs(err, c10d.ErrGroup)
	if !debuggc.On { // there Python hears too late that it is to end
		is.ErrorContains(err, "waiting until a hook call that is inside, an object that Go code holds, or code in C++, lets go")
	}
	runtime.KeepAlive(handle)
	ok()
	is.NoError(world.Barrier(context.Background()))
}
