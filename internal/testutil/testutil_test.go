package testutil

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

type handles struct{ Open int64 }

// failures records what a helper says against the test.
type failures struct {
	testing.TB
	said string
}

func (f *failures) Errorf(format string, args ...any) { f.said += fmt.Sprintf(format, args...) }
func (f *failures) Fatalf(format string, args ...any) { f.Errorf(format, args...) }

func TestHelpers_sayWhatIsLeft(t *testing.T) {
	limit = 50 * time.Millisecond
	defer func() { limit = Limit }()
	var open atomic.Int64
	end := make(chan struct{})
	defer close(end)
	for want, run := range map[string]func(testing.TB){
		"left open: {Open:0} before, {Open:1} after": func(t testing.TB) {
			Leaks[handles]{Counts: func() handles { return handles{open.Load()} }}.Check(t, func() { open.Add(1) })
		},
		"testutil.TestHelpers_sayWhatIsLeft": func(t testing.TB) {
			NoGoroutines(t, func() { go func() { <-end }() })
		},
		"not true within 50ms: the answer to 1": func(t testing.TB) {
			Eventually(t, func() bool { return false }, "the answer to %d", 1)
		},
	} {
		f := &failures{TB: t}
		run(f)
		assert.Contains(t, f.said, want)
	}
}

func TestLeaks_waitForWhatIsClosedLater(t *testing.T) {
	var open, forgotten atomic.Int64
	leaks := Leaks[handles]{
		Counts:  func() handles { return handles{open.Load() + forgotten.Load()} },
		Collect: func() { forgotten.Store(0) },
	}
	leaks.Check(t, func() {
		open.Add(1)
		forgotten.Add(1)
		go open.Add(-1)
	})
	t.Run("of a test", func(t *testing.T) {
		leaks.CheckTest(t)
		open.Add(1)
		t.Cleanup(func() { open.Add(-1) })
	})
	assert.Zero(t, open.Load())
}

func TestNoGoroutines_waitsForTheirEnd(t *testing.T) {
	end := make(chan struct{})
	NoGoroutines(t, func() {
		go func() { <-end }()
		close(end)
	})
}

func TestScale_Of(t *testing.T) {
	s := Scale{Race: 20, Debug: 500}
	assert.Equal(t, 3, s.Of(3))
	assert.LessOrEqual(t, s.Of(100_000), 100_000)
	assert.GreaterOrEqual(t, s.Of(60), 4-1)
	assert.Equal(t, 7, Scale{}.Of(7))
}

func TestSoon_endsWithTheTest(t *testing.T) {
	var done <-chan struct{}
	t.Run("", func(t *testing.T) { done = Soon(t).Done() })
	<-done
	Within(t, func() { <-done })
	tries := 0
	Eventually(t, func() bool { tries++; return tries == 3 }, "the third try")
}
