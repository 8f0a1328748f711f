package transport_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/c10d/transport"
	"pyhook/cbridge"
	"pyhook/internal/testutil"
	"pyhook/pyhook"
	"pyhook/tensor"
	"pyhook/tests/ranks"
	"pyhook/tests/ranks/rankpython"
)

func TestMain(m *testing.M) {
	ranks.Main(m, map[string]ranks.Func{
		"cases": cases, "hooks": allHooks, "order": order, "mismatch": mismatch, "gone": gone, "many": many, "slow": slow,
	})
}

// job runs a case on real ranks, in processes that others run in, too.
func job(t *testing.T, n int, name string, args any) *ranks.Job {
	t.Helper()
	// Only the ranks read these, and `go test` keeps a result unless the test
	// itself (TestMain is too early) has looked at what it depends on.
	for _, name := range []string{"PYHOOK_PYTHON", "VIRTUAL_ENV", "CONDA_PREFIX"} {
		_ = os.Getenv(name)
	}
	for _, file := range []string{"testdata/collectives.py", "testdata/group_uses.py"} {
		_, err := os.ReadFile(file)
		require.NoError(t, err)
	}
	return ranks.Shared(t, ranks.Options{N: n, Case: name, Args: args})
}

// join starts Python and the default group: over the socket transport, or gloo.
func join(ctx context.Context, r *ranks.Rank, backend string, cfg transport.Config) (rt *pyhook.Runtime, world *pyhook.TorchGroup, g *transport.Group, s *socket, err error) {
	if rt, err = rankpython.Start(ctx, pyhook.Config{Path: []string{"testdata"}}); err != nil {
		return
	}
	if backend != "socket" {
		world, err = rt.InitProcessGroup(ctx, pyhook.GroupConfig{Backend: backend, InitMethod: r.Meet})
		return
	}
	if s, err = connect(r.Dir, r.Rank, r.Size); err != nil {
		return
	}
	if g, err = transport.New(s, cfg); err != nil {
		return
	}
	world, err = rt.InstallTransport(ctx, g, nil)
	return
}

// leave ends what join made; without a transport g and s are nil.
func leave(rt *pyhook.Runtime, world *pyhook.TorchGroup, g *transport.Group, s *socket) error {
	err := rankpython.Leave(rt, world)
	if g != nil {
		g.Close()
		s.hangUp()
	}
	return err
}

// cases runs the cases of testdata/collectives.py and testdata/group_uses.py and
// reports each one's failure, "" for none.
func cases(ctx context.Context, r *ranks.Rank) error {
	var backend string
	if err := r.Args(&backend); err != nil {
		return err
	}
	rt, world, g, s, err := join(ctx, r, backend, transport.Config{Timeout: 20 * time.Second})
	if err != nil {
		return err
	}
	if _, err := rt.Import(ctx, "group_uses"); err != nil { // it adds its cases to the other file's
		return err
	}
	module, err := rt.Import(ctx, "collectives")
	if err != nil {
		return err
	}
	value, err := module.CallValue("names")
	if err != nil {
		return err
	}
	report := map[string]string{}
	for _, name := range value.([]any) {
		text, err := module.CallValue("run", name)
		if err != nil {
			text = err.Error()
		}
		report[name.(string)], _ = text.(string)
	}
	if g != nil && (world.Backend() != "pyhook_go" || world.Rank() != r.Rank || rt.Rank() != r.Rank) {
		return fmt.Errorf("rank %d of %s", world.Rank(), world.Backend())
	}
	return errors.Join(r.Report(report), leave(rt, world, g, s))
}

func TestEveryCollectiveWorksInPython(t *testing.T) {
	for _, size := range []int{2, 3} {
		run := job(t, size, "cases", "socket")
		for rank := range size {
			for name, failure := range ranks.Result[map[string]string](t, run, rank) {
				assert.Empty(t, failure, "%d ranks, rank %d: %s", size, rank, name)
			}
		}
	}
}

// mismatch: rank 1 calls another collective; the group works after that.
func mismatch(ctx context.Context, r *ranks.Rank) error {
	rt, world, g, s, err := join(ctx, r, "socket", transport.Config{Timeout: 20 * time.Second})
	if err != nil {
		return err
	}
	module, err := rt.Import(ctx, "group_uses")
	if err != nil {
		return err
	}
	text, err := module.CallValue("out_of_step")
	if err != nil {
		return err
	}
	var typed *transport.MismatchError
	if !errors.As(g.Err(), &typed) || typed.Rank != 1-r.Rank {
		return fmt.Errorf("no MismatchError in Go: %w", g.Err())
	}
	x, err := tensor.New(tensor.Float32, int64(4+r.Rank))
	if err != nil {
		return err
	}
	future, err := world.AllReduce(ctx, x, c10d.Sum)
	if err != nil {
		return err
	}
	_, err = future.Wait(ctx)
	if !errors.Is(err, c10d.ErrGroup) || !strings.Contains(err.Error(), "out of step") {
		return fmt.Errorf("a Go all-reduce of other lengths: %w", err)
	}
	if err := world.Barrier(ctx); err != nil {
		return err
	}
	return errors.Join(r.Report(text), leave(rt, world, g, s))
}

func TestRanksOutOfStepGetAnErrorInPythonAndInGo(t *testing.T) {
	run := job(t, 2, "mismatch", nil)
	text := ranks.Result[string](t, run, 0)
	assert.Contains(t, text, "GroupError transport")
	assert.Contains(t, text, "rank 1 calls broadcast float32 x2 of rank 0 where this one calls all_reduce SUM float32 x4")
}

// gone: rank 1 hangs up in the middle of rank 0's collective.
func gone(ctx context.Context, r *ranks.Rank) error {
	rt, world, g, s, err := join(ctx, r, "socket", transport.Config{})
	if err != nil {
		return err
	}
	if r.Rank == 1 {
		time.Sleep(100 * time.Millisecond)
		s.hangUp()
		return errors.Join(r.Report(""), leave(rt, world, g, s))
	}
	hook, err := rt.NewHook(ctx, "allreduce", pyhook.HookConfig{})
	if err != nil {
		return err
	}
	err = runHook(ctx, hook, bucketOf(0, 4), nil)
	var typed *peerGone
	if !errors.As(g.Err(), &typed) || typed.Rank != 1 {
		return fmt.Errorf("no peerGone in Go: %w", g.Err())
	}
	if !errors.Is(err, c10d.ErrFutureFailed) {
		return fmt.Errorf("the hook's error: %w", err)
	}
	hook.Close()
	return errors.Join(r.Report(err.Error()), leave(rt, world, g, s))
}

func TestAHookFailsWithTheTransportsError(t *testing.T) {
	run := job(t, 2, "gone", nil)
	assert.Contains(t, ranks.Result[string](t, run, 0), "rank 1 hung up")
}

// slow: rank 1 never comes.
func slow(ctx context.Context, r *ranks.Rank) error {
	rt, world, g, s, err := join(ctx, r, "socket", transport.Config{Timeout: 2 * time.Second})
	if err != nil {
		return err
	}
	module, err := rt.Import(ctx, "group_uses")
	if err != nil {
		return err
	}
	text := ""
	if r.Rank == 0 {
		if text, err = cbridge.As[string](must(module.Call("alone"))); err != nil {
			return err
		}
		if !errors.Is(g.Err(), context.DeadlineExceeded) {
			return fmt.Errorf("no deadline in Go: %w", g.Err())
		}
	} else {
		time.Sleep(3 * time.Second)
	}
	return errors.Join(r.Report(text), leave(rt, world, g, s))
}

func TestATimeoutIsAnError(t *testing.T) {
	run := job(t, 2, "slow", nil)
	assert.Contains(t, ranks.Result[string](t, run, 0), "not done after 2s")
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

// counters of everything that must come back to its start.
func counters() [4]int64 {
	_ = cbridge.Attached(func() {})
	return [4]int64{cbridge.LiveObjects(), cbridge.LiveFuncs(), tensor.LiveTensors(), tensor.LiveMemory()}
}

// many: 10,000 all-reduces leave nothing behind.
func many(ctx context.Context, r *ranks.Rank) error {
	rt, _, _, _, err := join(ctx, r, "socket", transport.Config{})
	if err != nil {
		return err
	}
	module, err := rt.Import(ctx, "group_uses")
	if err != nil {
		return err
	}
	burst := func(n int) error {
		none, err := module.Call("burst", n)
		none.Close()
		return err
	}
	// countersBelow waits until no counter is above want.
	countersBelow := func(want [4]int64) (got [4]int64) {
		for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
			runtime.GC()
			if got = counters(); got[0] <= want[0] && got[1] <= want[1] && got[2] <= want[2] && got[3] <= want[3] {
				break
			}
		}
		return got
	}
	if err := burst(1000); err != nil {
		return err
	}
	time.Sleep(1500 * time.Millisecond) // works linger for a second
	const funcs = 3                     // the group's two, and what Go calls Python's signal handlers by
	before := countersBelow([4]int64{1 << 40, funcs, 0, 0})
	memory, threads := residentKiB(), threadCount()
	if err := burst(10000); err != nil {
		return err
	}
	if after := countersBelow(before); after[0] > before[0] || after[1] != funcs || after[2] != 0 || after[3] != 0 {
		return fmt.Errorf("objects, funcs, tensors, memory: %v before, %v after", before, after)
	}
	if grown := residentKiB() - memory; grown > 6<<10 && !testutil.Race {
		return fmt.Errorf("the process has grown by %d KiB", grown)
	}
	// A leak is a thread for each of thousands; on a busy machine Go starts some for its own.
	if more := threadCount() - threads; more > 200 {
		return fmt.Errorf("%d more threads", more)
	}
	if err := r.Report(true); err != nil {
		return err
	}
	return rt.Close()
}

func TestTenThousandCollectivesLeaveNothing(t *testing.T) {
	// Processes of its own, which end Python: of what others leave it cannot tell its own.
	require.True(t, ranks.Result[bool](t, ranks.Run(t, 2, "many", nil), 0))
}
