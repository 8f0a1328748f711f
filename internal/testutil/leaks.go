package testutil

import (
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// Leaks finds out whether a test leaves handles open. C is a struct with a field for each kind of
// handle, so that a failure names what is left.
type Leaks[C comparable] struct {
	// Counts returns how many handles there are, after it has done what frees the closed ones.
	Counts func() C
	// Collect frees what nothing uses any more, if a test may leave that to a garbage collector.
	// Where it is nil, a handle that nobody closed fails the test.
	Collect func()
	// Clean reports whether now has nothing that before did not have. Where it is nil, the two must
	// be equal.
	Clean func(before, now C) bool
}

// Check runs f and fails the test if the counts do not come back to what they were before f.
func (l Leaks[C]) Check(t testing.TB, f func()) {
	t.Helper()
	before := l.Stable()
	f()
	l.expect(t, before)
}

// CheckTest is Check for the rest of the test. Call it before the test makes anything: it looks
// after the cleanups that the test registers later.
func (l Leaks[C]) CheckTest(t testing.TB) {
	t.Helper()
	before := l.Stable()
	t.Cleanup(func() { l.expect(t, before) })
}

// Stable returns the counts when they have stayed the same for a moment: what earlier tests let go
// of, goroutines and Python's threads free a little later.
func (l Leaks[C]) Stable() C {
	if l.Collect != nil {
		l.Collect()
	}
	last := l.Counts()
	for same := 0; same < 20; same++ {
		time.Sleep(100 * time.Microsecond)
		if now := l.Counts(); now != last {
			last, same = now, 0
		}
	}
	return last
}

func (l Leaks[C]) expect(t testing.TB, want C) {
	t.Helper()
	clean := l.Clean
	if clean == nil {
		clean = func(before, now C) bool { return before == now }
	}
	got := l.Counts()
	if clean(want, got) || poll(func() bool {
		if l.Collect != nil {
			l.Collect()
		}
		got = l.Counts()
		return clean(want, got)
	}) {
		return
	}
	t.Errorf("left open: %+v before, %+v after", want, got)
}

// NoGoroutines runs f and fails the test if goroutines that it started are left.
func NoGoroutines(t testing.TB, f func()) {
	t.Helper()
	before := len(Goroutines())
	f()
	if !poll(func() bool { return len(Goroutines()) <= before }) {
		t.Errorf("%d goroutines before, now\n%s", before, strings.Join(Goroutines(), "\n\n"))
	}
}

// Goroutines returns the stacks of all goroutines, except those that stand for a thread of
// Python's.
func Goroutines() []string {
	text := make([]byte, 1<<20)
	stacks := strings.Split(string(text[:runtime.Stack(text, true)]), "\n\n")
	return slices.DeleteFunc(stacks, ofPythonThread.MatchString)
}

// After a while the state says for how many minutes.
var ofPythonThread = regexp.MustCompile(`\[syscall(, \d+ minutes)?, locked to thread\]:\nruntime\.goexit`)
