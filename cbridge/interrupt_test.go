package cbridge

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const interruptSource = `
import time

def forever():
    while True:
        pass

def stubborn(times):
    """Catches what it can, so many times."""
    for _ in range(times):
        try:
            while True:
                pass
        except BaseException as error:
            last = type(error)
    return last.__name__

def cleans_up(log):
    try:
        while True:
            time.sleep(0.01)
    except Exception:
        log.append("caught")
    finally:
        log.append("cleaned")

def quick():
    return 1

def sleeps(seconds):
    time.sleep(seconds)
    return 1
`

// callUntil calls a function of interruptSource with a context that ends.
func callUntil(t *testing.T, d time.Duration, name string, args ...any) (value any, stacks string, interrupted bool, err error) {
	t.Helper()
	m, err := python.Module("interrupt_test", interruptSource)
	require.NoError(t, err)
	defer m.Close()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	stacks, interrupted = python.Interruptible(ctx, func() { value, err = m.CallValue(name, args...) })
	return value, stacks, interrupted, err
}

func TestInterpreter_Interruptible(t *testing.T) {
	t.Run("an endless call ends with its context", func(t *testing.T) {
		start := time.Now()
		_, stacks, interrupted, err := callUntil(t, 50*time.Millisecond, "forever")
		assert.Less(t, time.Since(start), 5*time.Second)
		assert.True(t, interrupted)
		var raised *PythonError
		require.True(t, errors.As(err, &raised))
		assert.Equal(t, "pyhook.Interrupted", raised.Type)
		assert.Contains(t, stacks, "in forever")
		assert.NotContains(t, stacks, "in stacks")
	})
	t.Run("an interruption is no Exception and runs finally", func(t *testing.T) {
		log, err := Convert([]any{})
		require.NoError(t, err)
		defer log.Close()
		_, _, interrupted, err := callUntil(t, 50*time.Millisecond, "cleans_up", log)
		assert.Error(t, err)
		assert.True(t, interrupted)
		said, err := log.Value()
		require.NoError(t, err)
		assert.Equal(t, []any{"cleaned"}, said)
	})
	t.Run("code that catches it gets it again", func(t *testing.T) {
		value, _, interrupted, err := callUntil(t, 20*time.Millisecond, "stubborn", 3)
		require.NoError(t, err)
		assert.True(t, interrupted)
		assert.Equal(t, "Interrupted", value)
	})
	// An interruption that comes too late must not meet the thread's next call.
	t.Run("a late one harms nobody", func(t *testing.T) {
		m, err := python.Module("interrupt_test", interruptSource)
		require.NoError(t, err)
		defer m.Close()
		late := 0
		for i := range 300 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i%60)*time.Microsecond)
			_, interrupted := python.Interruptible(ctx, func() { _, _ = m.CallValue("quick") })
			cancel()
			if interrupted {
				late++
			}
			for range 3 {
				value, err := m.CallValue("quick")
				require.NoError(t, err)
				require.Equal(t, int64(1), value)
			}
		}
		t.Logf("%d of 300 were interrupted", late)
		_, _, interrupted, err := callUntil(t, 20*time.Millisecond, "sleeps", 1.0)
		assert.True(t, interrupted, "what blocks in C gets it when it returns")
		assert.Error(t, err)
		value, err := m.CallValue("quick")
		require.NoError(t, err)
		assert.Equal(t, int64(1), value)
	})
	t.Run("no call is interrupted whose context does not end", func(t *testing.T) {
		value, stacks, interrupted, err := callUntil(t, time.Minute, "quick")
		require.NoError(t, err)
		assert.Equal(t, int64(1), value)
		assert.False(t, interrupted)
		assert.Empty(t, stacks)
		_, interrupted = python.Interruptible(context.Background(), func() { value = 2 })
		assert.False(t, interrupted)
		assert.Equal(t, 2, value)
	})
}
