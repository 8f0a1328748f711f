package pyhook

import (
	"bytes"
	"context"
	"os"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
)

// FuzzLoadState: a file of any content, with a digest that fits or not, is loaded
// whole, so that it saves and loads again as itself, or refused with the state as
// it was. It runs nothing, and asks for no more memory than a file of its size may.
func FuzzLoadState(f *testing.F) {
	_, err := callPython("forge.audit_restores")
	require.NoError(f, err)
	makers := []func(require.TestingT) *PythonCommHook{everythingHook, powerHook, countingHook}
	var files [][]byte
	for i, maker := range makers {
		h := maker(f)
		if i == 1 {
			powerSteps(f, h, 0, 4)
		}
		files = append(files, savedBytes(f, h))
		h.Close()
		for offset := range 40 {
			f.Add(uint8(i), true, []byte{byte(offset), byte(offset * 41), byte(offset % 8), byte(offset % 3), byte(offset), 1, 2})
		}
		f.Add(uint8(i), false, []byte{0, 0, 0, 1, 0})
		f.Add(uint8(i), true, []byte{})
	}
	rounds := 0
	var before handles
	f.Fuzz(func(t *testing.T, which uint8, byNode bool, edits []byte) {
		if len(edits) > 64 {
			return
		}
		if rounds%500 == 0 {
			now := leaks.Stable()
			if rounds > 0 {
				require.Equal(t, before, now, "after 500 files")
			}
			before = now
		}
		rounds++
		i := int(which) % len(makers)
		change := "forge.scratched"
		if byNode {
			change = "forge.forged"
		}
		h := makers[i](t)
		defer h.Close()
		loadForged(t, h, python(t, change, files[i], edits).([]byte))
		require.Empty(t, python(t, "forge.ran"))
	})
}

func loadForged(t *testing.T, h *PythonCommHook, file []byte) {
	t.Helper()
	was, start, peak := savedBytes(t, h), time.Now(), virtualPeak(t)
	err := h.LoadState(t.Context(), bytes.NewReader(file))
	assert.Less(t, virtualPeak(t)-peak, int64(256<<20), "memory for a file of %d bytes: %v", len(file), err)
	assert.Less(t, time.Since(start), 20*time.Second)
	if err == nil {
		loaded := savedBytes(t, h)
		require.NoError(t, h.LoadState(t.Context(), bytes.NewReader(loaded)))
		require.Equal(t, loaded, savedBytes(t, h))
		return
	}
	var e *c10d.Error
	require.ErrorAs(t, err, &e)
	require.ErrorIs(t, err, c10d.ErrState)
	assert.NotEmpty(t, e.Hint)
	if e.Code != c10d.ErrState && e.Code != "state_failed" { // else the state's own methods raised
		require.Equal(t, was, savedBytes(t, h), "%v", err)
	}
}

func savedBytes(t require.TestingT, h *PythonCommHook) []byte {
	var b bytes.Buffer
	require.NoError(t, h.SaveState(context.Background(), &b))
	return b.Bytes()
}

func everythingHook(t require.TestingT) *PythonCommHook {
	state := stateOf(t, "forge:Everything", nil)
	defer state.Close()
	h, err := rt.NewHook(context.Background(), "forge:hook", HookConfig{State: state})
	require.NoError(t, err)
	return h
}

// countingHook carries its state in itself.
func countingHook(t require.TestingT) *PythonCommHook {
	hook := stateOf(t, "states:Counting", nil)
	defer hook.Close()
	h, err := rt.WrapHook(context.Background(), hook, HookConfig{})
	require.NoError(t, err)
	return h
}

var vmPeak = regexp.MustCompile(`VmPeak:\s+(\d+) kB`)

// virtualPeak is the most address space that the process has had, in bytes: memory
// that was asked for counts, used or not.
func virtualPeak(t *testing.T) int64 {
	t.Helper()
	text, err := os.ReadFile("/proc/self/status")
	require.NoError(t, err)
	n, err := strconv.ParseInt(string(vmPeak.FindSubmatch(text)[1]), 10, 64)
	require.NoError(t, err)
	return n << 10
}
