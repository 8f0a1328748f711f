package cbridge

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/internal/testutil"
)

const threadSource = `
import _thread
import io
import logging
import threading

died = []  # what ended a thread of a test's
log = logging.Logger("interrupt_thread_test")
log.addHandler(logging.StreamHandler(io.StringIO()))
guard = threading.RLock()
changed = threading.Condition()

threading.excepthook = lambda args: died.append(args.exc_type.__name__)

def threads():
    while True:
        thread = threading.Thread(target=int)
        thread.start()
        thread.join()

def timers():
    while True:
        timer = threading.Timer(0, log.warning, ("a timer",))
        timer.start()
        timer.join()

def bare_threads():
    while True:
        _thread.start_new_thread(int, ())

def logs():
    while True:
        log.warning("again")

class Guarded:
    def __enter__(self):
        guard.acquire()

    def __exit__(self, *_):
        guard.release()

def locks():
    while True:
        with Guarded():
            pass

def waits():
    while True:
        with changed:
            changed.wait(0.0001)

def left():
    """What the tests left: threads that run, what ended others, locks that are taken."""
    locks = []

    def look():
        for name, lock in [("log", log.handlers[0]), ("guard", guard), ("changed", changed)]:
            if lock.acquire(**({} if name == "log" else {"timeout": 2})) is False:
                locks.append(name)
            else:
                lock.release()

    looks = threading.Thread(target=look, daemon=True)
    looks.start()
    looks.join(5)
    threads = [t.name for t in threading.enumerate() if isinstance(t, threading.Thread) and not isinstance(t, (threading._MainThread, threading._DummyThread))]
    return threads + died + locks
`

// A thread that is being made bears its maker's id for a moment, on CPython before 3.12; and an
// exception just after a lock was taken, or just before it is given back, leaves it taken.
func TestInterpreter_Interruptible_OtherThreads(t *testing.T) {
	m, err := python.Module("interrupt_thread_test", threadSource)
	require.NoError(t, err)
	defer m.Close()
	for _, hook := range []string{"threads", "timers", "bare_threads", "logs", "locks", "waits"} {
		t.Run(hook, func(t *testing.T) {
			late := make([]time.Duration, 150)
			for i := range late {
				late[i] = interruptedAfter(t, m, hook, time.Duration(i%30)*100*time.Microsecond)
			}
			slices.Sort(late)
			t.Logf("after the deadline: median %v, most %v", late[len(late)/2], late[len(late)-1])
			assert.Less(t, late[len(late)/2], 200*time.Millisecond)
			var left []any
			testutil.Eventually(t, func() bool { // threads that were made last
				value, err := m.CallValue("left")
				require.NoError(t, err)
				left = value.([]any)
				return len(left) == 0
			}, "no thread, exception or lock is left: %v", &left)
		})
	}
}

// interruptedAfter returns how long after its deadline a call ended that ends by no other way.
func interruptedAfter(t *testing.T, m *Object, name string, d time.Duration) time.Duration {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		var err error
		_, _ = python.Interruptible(ctx, func() { _, err = m.CallValue(name) })
		ended <- err
	}()
	select {
	case err := <-ended:
		require.ErrorContains(t, err, "pyhook.Interrupted")
	case <-time.After(30 * time.Second):
		stacks, _ := python.Stacks()
		require.FailNow(t, "the call does not end", stacks)
	}
	deadline, _ := ctx.Deadline()
	return time.Since(deadline)
}

func TestInterpreter_Interruptible_Flag(t *testing.T) {
	// TestInterpreter_Interruptible_leavesNoFlag: before CPython 3.13 an exception that was taken back
	// left the interpreter's flag set, and on 3.11 a traced function then never ended.
	t.Run("none is left", func(t *testing.T) {
		m, err := python.Module("traced_later", `
import sys

def spin():
    while True:
        pass

def traced():
    sys.settrace(lambda *_: None)
    try:
        return double(21)
    finally:
        sys.settrace(None)

def double(n):
    return 2 * n
`)
		require.NoError(t, err)
		defer m.Close()
		for range 5 {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			_, interrupted := python.Interruptible(ctx, func() { _, err = m.CallValue("spin") })
			cancel()
			require.True(t, interrupted)
			require.ErrorIs(t, err, Exception("pyhook.Interrupted"))
		}
		done := make(chan any, 1)
		go func() {
			value, err := m.CallValue("traced")
			done <- []any{value, err}
		}()
		select {
		case got := <-done:
			assert.Equal(t, []any{int64(42), nil}, got)
		case <-time.After(10 * time.Second):
			require.Fail(t, "a traced function does not end")
		}
	})
}
