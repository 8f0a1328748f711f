package testutil

import (
	"context"
	"fmt"
	"os"
	"runtime/pprof"
	"testing"
	"time"
)

// Limit is how long a test waits for what should take no time. It is long because a busy machine
// may run nothing of a test for seconds; only a test that fails waits for all of it.
const Limit = time.Minute

var limit = Limit // less in the tests of this package

// Soon returns a context for an operation that should take no time. It ends with the test, after
// the cleanups that are registered later.
func Soon(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Limit)
	t.Cleanup(cancel)
	return ctx
}

// Eventually waits until condition holds, and ends the test if it does not within Limit. It calls
// condition on the test's own goroutine and starts no other. A message is a format and what goes
// into it.
func Eventually(t testing.TB, condition func() bool, message ...any) {
	t.Helper()
	if poll(condition) {
		return
	}
	if len(message) == 0 {
		message = []any{"what the test waits for"}
	}
	t.Fatalf("not true within %s: %s", limit, fmt.Sprintf(message[0].(string), message[1:]...))
}

func poll(condition func() bool) bool {
	for deadline := time.Now().Add(limit); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			return false
		}
	}
	return true
}

// Within runs f, which should take no time. If f hangs, Within prints all goroutines and ends the
// process: after a deadlock the test's cleanups would hang, too.
func Within(t testing.TB, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(Limit):
		fmt.Fprintf(os.Stderr, "%s: not done after %s\n", t.Name(), Limit)
		_ = pprof.Lookup("goroutine").WriteTo(os.Stderr, 2)
		os.Exit(2)
	}
}
