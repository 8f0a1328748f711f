package network_test

import (
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// job starts n ranks, each on a machine of its own, which have not joined yet.
func job(t *testing.T, n int, hook string) (*wire, []*rank) {
	t.Helper()
	needRoot(t)
	w := newWire()
	t.Cleanup(w.close)
	ranks := make([]*rank, n)
	for i := range ranks {
		ranks[i] = startRank(t, w, rankConfig{Machine: i, Rank: i, Size: n, Addr: dotted(0), Port: 29500, Timeout: timeout, Hook: hook})
	}
	for _, r := range ranks {
		require.True(t, r.must("ready").OK)
	}
	return w, ranks
}

// joined is job, met and with a good step behind it.
func joined(t *testing.T, n int, hook string) (*wire, []*rank) {
	t.Helper()
	w, ranks := job(t, n, hook)
	for _, command := range []string{"join", "step"} {
		for _, r := range ranks {
			r.send(command)
		}
		for _, r := range ranks {
			a, err := r.hear(time.Minute)
			require.NoError(t, err)
			require.True(t, a.OK && a.Sum, "%s: %s", command, a.Err)
		}
	}
	return w, ranks
}

func slow(w *wire, bytesASecond int64) { w.perByte.Store(int64(time.Second) / bytesASecond) }

// A fault befalls the last rank, or the wire, while all reduce 8 MiB over a wire that
// takes seconds for that.
var faults = []struct {
	name  string
	ranks int
	hook  string
	do    func(w *wire, last *rank)
}{
	{"killed", 2, "pending", func(_ *wire, last *rank) { _ = last.cmd.Process.Kill() }},
	{"killed in a hook that waits", 2, "waits", func(_ *wire, last *rank) { _ = last.cmd.Process.Kill() }},
	{"frozen", 2, "pending", func(_ *wire, last *rank) { _ = last.cmd.Process.Signal(syscall.SIGSTOP) }},
	{"frozen in a hook that waits", 2, "waits", func(_ *wire, last *rank) { _ = last.cmd.Process.Signal(syscall.SIGSTOP) }},
	{"partitioned", 2, "pending", func(w *wire, _ *rank) { w.cut.Store(true) }},
	{"one of four killed", 4, "pending", func(_ *wire, last *rank) { _ = last.cmd.Process.Kill() }},
	{"one of four frozen", 4, "waits", func(_ *wire, last *rank) { _ = last.cmd.Process.Signal(syscall.SIGSTOP) }},
}

func TestAPeerThatFailsInACollective(t *testing.T) {
	for _, fault := range faults {
		t.Run(fault.name, func(t *testing.T) {
			t.Parallel()
			w, ranks := joined(t, fault.ranks, fault.hook)
			slow(w, 4<<20)
			for _, r := range ranks {
				r.send("step")
			}
			time.Sleep(500 * time.Millisecond)
			begin := time.Now()
			last := ranks[len(ranks)-1]
			fault.do(w, last)
			w.perByte.Store(0)
			survivors := ranks[:len(ranks)-1]
			if w.cut.Load() {
				survivors = ranks
			}
			for i, r := range survivors {
				a, err := r.hear(time.Minute)
				require.NoError(t, err)
				failedOfAPeer(t, a, i, time.Since(begin))
			}
			for _, r := range survivors {
				closes(t, r)
			}
		})
	}
}

// failedOfAPeer asserts a step's error: its type, its words, its time.
func failedOfAPeer(t *testing.T, a answer, rank int, took time.Duration) {
	t.Helper()
	assert.False(t, a.OK)
	assert.Contains(t, a.Kinds, "ErrPeer", a.Err)
	assert.Contains(t, a.Hook, "wire_hooks.", a.Err)
	assert.Equal(t, []int{rank, 3}, []int{a.Rank, a.Bucket}, a.Err)
	assert.Contains(t, a.Hint, "other ranks' own errors")
	assert.LessOrEqual(t, took, limit, a.Err)
	t.Logf("rank %d after %s: %.200s", rank, took.Round(10*time.Millisecond), a.Err)
}

// What blocks in a collective ends with gloo's timeout, as gloo cannot be aborted.
func TestACancelledStepLeavesNoThread(t *testing.T) {
	for hook, kind := range map[string]string{"pending": "DeadlineExceeded", "waits": "ErrRaised"} {
		t.Run(hook, func(t *testing.T) {
			t.Parallel()
			_, ranks := joined(t, 2, hook)
			require.NoError(t, ranks[1].cmd.Process.Signal(syscall.SIGSTOP))
			a := ranks[0].must("step and cancel")
			assert.False(t, a.OK)
			assert.Contains(t, a.Kinds, kind, a.Err)
			assert.LessOrEqual(t, a.Took, limit, a.Err)
			a = ranks[0].must("abort")
			assert.Subset(t, a.Kinds, []string{"ErrGroup", "ErrUnsupported"}, a.Err)
			closes(t, ranks[0])
		})
	}
}

func closes(t *testing.T, r *rank) {
	t.Helper()
	a := r.must("close")
	assert.True(t, a.OK, a.Err)
	assert.Less(t, a.Took, 5*time.Second, "closing beside a peer that failed")
}

func TestAPeerThatEndsBeforeTheCollective(t *testing.T) {
	t.Parallel()
	_, ranks := joined(t, 2, "pending")
	ranks[1].send("exit")
	<-ranks[1].ended
	failedOfAPeer(t, ranks[0].must("step"), 0, 0)
	closes(t, ranks[0])
}

func TestASlowWire(t *testing.T) {
	t.Run("that is quick enough", func(t *testing.T) {
		t.Parallel()
		w, ranks := joined(t, 2, "pending")
		slow(w, 8<<20)
		w.delay.Store(int64(20 * time.Millisecond))
		for _, r := range ranks {
			r.send("step")
		}
		for _, r := range ranks {
			a, err := r.hear(time.Minute)
			require.NoError(t, err)
			assert.True(t, a.OK && a.Sum, a.Err)
			t.Logf("took %s", a.Took)
			closes(t, r)
		}
	})
	t.Run("that is too slow", func(t *testing.T) {
		t.Parallel()
		w, ranks := joined(t, 2, "pending")
		slow(w, 100<<10)
		begin := time.Now()
		for _, r := range ranks {
			r.send("step")
		}
		for i, r := range ranks {
			a, err := r.hear(2 * time.Minute)
			require.NoError(t, err)
			failedOfAPeer(t, a, i, time.Since(begin))
		}
		for _, r := range ranks {
			closes(t, r)
		}
	})
}

// TestReducer_Recover_network: what befalls the wire or a rank fails the step of all within the groups'
// timeout and 2 s, and once it is over all ranks go on.
func TestReducer_Recover_network(t *testing.T) {
	for _, fault := range []struct {
		name          string
		ranks         int
		command, kind string
		begin, over   func(w *wire, last *rank)
	}{
		{"the wire is cut for a while", 2, "reduce", "ErrPeer", func(w *wire, _ *rank) { w.cut.Store(true) }, func(w *wire, _ *rank) { w.cut.Store(false) }},
		{"the wire is slower for a while than the trainers' contexts allow", 2, "reduce and cancel", "DeadlineExceeded", func(w *wire, _ *rank) { slow(w, 1<<20) }, func(w *wire, _ *rank) { w.perByte.Store(0) }},
		{"one of three is frozen for a while", 3, "reduce", "ErrPeer", func(_ *wire, last *rank) { _ = last.cmd.Process.Signal(syscall.SIGSTOP) },
			func(_ *wire, last *rank) { _ = last.cmd.Process.Signal(syscall.SIGCONT) }},
	} {
		t.Run(fault.name, func(t *testing.T) {
			t.Parallel()
			w, ranks := joined(t, fault.ranks, "pending")
			together(t, ranks, "reduce", time.Minute)
			last := ranks[len(ranks)-1]
			live := ranks
			for _, r := range ranks {
				r.send(fault.command)
			}
			fault.begin(w, last)
			if fault.ranks == 3 {
				live = ranks[:2]
			}
			var kinds []string
			for i, r := range live {
				a, err := r.hear(time.Minute)
				require.NoError(t, err)
				assert.False(t, a.OK)
				assert.LessOrEqual(t, a.Took, limit+time.Second, a.Err)
				t.Logf("rank %d after %s: %.300s", i, a.Took.Round(10*time.Millisecond), a.Err)
				kinds = append(kinds, a.Kinds...)
			}
			assert.Contains(t, kinds, fault.kind)
			fault.over(w, last)
			if fault.ranks == 3 {
				a, err := last.hear(time.Minute)
				require.NoError(t, err)
				assert.False(t, a.OK)
				t.Logf("the frozen one: %.300s", a.Err)
			}
			together(t, ranks, "recover", 30*time.Second)
			together(t, ranks, "reduce", 30*time.Second)
		})
	}
}

// together has all ranks do what must go well.
func together(t *testing.T, ranks []*rank, command string, limit time.Duration) {
	t.Helper()
	for _, r := range ranks {
		r.send(command)
	}
	for i, r := range ranks {
		a, err := r.hear(limit)
		require.NoError(t, err, "rank %d", i)
		require.True(t, a.OK && a.Sum, "rank %d: %s: %s", i, command, a.Err)
	}
}
