package pyhook

import (
	"context"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/internal/testutil"
)

// resident is the process's memory in bytes.
func resident(t *testing.T) int64 {
	t.Helper()
	text, err := os.ReadFile("/proc/self/statm")
	require.NoError(t, err)
	pages, err := strconv.ParseInt(strings.Fields(string(text))[1], 10, 64)
	require.NoError(t, err)
	return pages * int64(os.Getpagesize())
}

// underASan is asked before memory is looked at: the answer is read from a megabyte.
func underASan() bool {
	maps, _ := os.ReadFile("/proc/self/maps")
	return strings.Contains(string(maps), "/libasan.so")
}

func references(t *testing.T, o *Object) int64 {
	t.Helper()
	n, err := callPython("sys.getrefcount", o)
	require.NoError(t, err)
	return n.(int64)
}

func freeThreaded(t *testing.T) bool {
	t.Helper()
	disabled, err := callPython("sysconfig.get_config_var", "Py_GIL_DISABLED")
	require.NoError(t, err)
	return disabled == int64(1)
}

func TestManyCallsLeaveNothingBehind(t *testing.T) {
	cases := []struct {
		hook  string
		calls int
		parse bool
	}{
		{hook: "noop", calls: 60_000},
		{hook: "sample:identity", calls: 20_000, parse: true},
		{hook: "sample:doubled", calls: 18_000, parse: true},
		{hook: "allreduce", calls: 2_000, parse: true},
	}
	for _, c := range cases {
		check(t, c.hook, func(t *testing.T) {
			b := bucket(t, []float32{1, 2}, []float32{3})
			h := load(t, c.hook, HookConfig{State: map[string]any{}})
			if c.hook == "allreduce" {
				h = load(t, c.hook, HookConfig{})
			}
			calls := func(n int) {
				for range n {
					soakCall(t, h, b, c.parse)
				}
			}
			calls(slow.Of(max(c.calls/4, 6000))) // until gloo's threads have their memory
			leavesNothing(t, h, b, func() { calls(slow.Of(c.calls)) })
		})
	}
}

// leavesNothing asserts that memory, references and handles are the same after calls.
func leavesNothing(t *testing.T, h *PythonCommHook, b *c10d.GradBucket, calls func()) {
	t.Helper()
	asan := underASan()
	late, limit := 0.0, int64(1<<20)
	if freeThreaded(t) {
		// Without a GIL, what one thread made and another let go of is freed when the
		// first next runs Python: some callbacks of gloo's threads wait for that.
		late, limit = 8, 2<<20
	}
	collect := func() {
		python(t, "gc.collect")
		runtime.GC()
		debug.FreeOSMemory()
	}
	counts := func() [4]int64 {
		python := pythonOf(b)
		return [4]int64{references(t, h.hook), references(t, h.State()), references(t, python.tensor), references(t, python.layout)}
	}
	collect()
	before, live, memory := counts(), leaks.Counts().list(), resident(t)
	calls()
	collect()
	grown := resident(t) - memory
	t.Logf("resident memory grew by %d KiB", grown>>10)
	if testutil.FullSpeed && !asan { // the race detector's own memory grows; ASan keeps what is freed
		assert.Less(t, grown, limit, "memory")
	}
	// gloo's threads let go of a call's things after the future's callbacks.
	for end := time.Now().Add(10 * time.Second); counts() != before && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	for i, now := range counts() {
		assert.InDelta(t, before[i], now, late, "references of hook, state, buffer, layout: %d", i)
	}
	for i, now := range leaks.Stable().list() {
		assert.InDelta(t, live[i], now, late, "objects, funcs, tensors, memory: %d", i)
	}
}

func soakCall(t *testing.T, h *PythonCommHook, b *c10d.GradBucket, parse bool) {
	future, err := h.RunHook(context.Background(), b)
	require.NoError(t, err)
	defer future.Close()
	value, err := future.Wait(context.Background())
	require.NoError(t, err)
	if parse {
		result, err := h.ParseHookResult(b, value)
		require.NoError(t, err)
		result.Close()
	}
}
