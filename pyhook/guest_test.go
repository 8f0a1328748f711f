package pyhook

import (
	"errors"
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
)

// guests are the hooks of testdata/guests.py: what each gives. Python code shares
// the process with the trainer; whatever it does there short of ending it, the
// trainer goes on. What ends it (os._exit, a crash) is for package worker.
var guests = []struct {
	hook  string
	fails string // part of the typed error; empty: it reduces
}{
	{"exits", "SystemExit"},
	{"exits_by_quit", "SystemExit: bye"},
	{"exits_by_generator", "GeneratorExit"},
	{"forks_and_ends", ""},
	{"forks_and_returns", ""},
	{"forks_and_raises", ""},
	{"runs_a_program", ""},
	{"leaves_a_thread", ""},
	{"leaves_busy_threads", ""},
	{"installs_signal_handlers", ""},
	{"sets_an_alarm", ""},
	{"enables_faulthandler", ""},
	{"replaces_stdout", ""},
	{"loses_stdout", ""},
	{"closes_stdin", ""},
	{"recurses", "RecursionError"},
	{"recurses_in_repr", "ValueError"},
	{"raises_a_huge_exception", "ValueError: xxx"},
	{"raises_the_unprintable", "Unprintable"},
	{"raises_what_exits_when_printed", "Exits"},
	{"raises_a_ring_of_causes", "ValueError: a"},
	{"makes_rings_of_tensors", ""},
	{"keeps_everything", ""},
	{"patches_torch", ""},
	{"patches_future", ""},
	{"registers_atexit", ""},
	{"imports_on_two_threads", ""},
	{"changes_the_process", ""},
	{"sets_the_recursion_limit", ""},
	{"sets_hooks_of_sys", ""},
	{"traces", ""},
	{"fails_in_a_finaliser", ""},
	{"turns_gc_off", ""},
	{"makes_warnings_errors", "UserWarning: an error now"},
	{"silences_logging", ""},
	{"opens_many_files", ""},
	{"runs_out_of_memory", "RuntimeError"},
	{"asks_for_too_large_a_list", "MemoryError"},
}

func TestATrainerOutlivesItsGuests(t *testing.T) {
	for _, guest := range guests {
		t.Run(guest.hook, func(t *testing.T) {
			b := bucket(t, []float32{1, 2}, []float32{3})
			stillWorks(t, b)
			descriptors := countDescriptors(t)
			h := load(t, "guests:"+guest.hook, HookConfig{})
			for range 2 {
				future, err := h.RunHook(t.Context(), b)
				if guest.fails != "" {
					require.ErrorIs(t, err, c10d.ErrRaised)
					var e *c10d.Error
					require.True(t, errors.As(err, &e))
					assert.Contains(t, err.Error(), guest.fails)
					assert.Less(t, len(err.Error()), 300_000)
					continue
				}
				require.NoError(t, err)
				value, err := future.Wait(t.Context())
				require.NoError(t, err)
				result, err := h.ParseHookResult(b, value)
				require.NoError(t, err)
				assert.Equal(t, []float32{1, 2, 3}, values(t, result))
				result.Close()
				future.Close()
			}
			stillWorks(t, b)
			python(t, "gc.collect")
			assert.LessOrEqual(t, countDescriptors(t), descriptors)
		})
	}
}

// What a hook keeps after the step stays valid memory, also when the trainer
// has given the bucket and its buffer up.
func TestWhatAHookKeepsStaysValid(t *testing.T) {
	func() {
		b := bucket(t, []float32{5, 6})
		h := load(t, "guests:keeps_everything", HookConfig{})
		python(t, "guests.forget")
		future, err := h.RunHook(t.Context(), b)
		require.NoError(t, err)
		_, err = future.Wait(t.Context())
		require.NoError(t, err)
		future.Close()
		buffer := b.Buffer()
		b.Close()
		buffer.Close()
	}()
	text, err := callPython("guests.said")
	require.NoError(t, err)
	assert.Equal(t, "[5.0, 6.0] [5.0, 6.0]", text)
	python(t, "guests.forget")
	python(t, "gc.collect")
}

func countDescriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(entries)
}
