package pyhook

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/tensor"
)

func init() {
	children["output to a writer"] = childOutputWriter
	children["output to slog"] = childOutputLogger
	children["output faster than its writer"] = childOutputFlood
}

// talk runs a hook of testdata/talks.py with an output, calls after, and closes
// the runtime.
func talk(is *require.Assertions, output Output, hook string, after func()) {
	rt, err := Start(context.Background(), Config{Path: []string{"testdata"}, Output: output})
	is.NoError(err)
	h, err := rt.NewHook(context.Background(), hook, HookConfig{})
	is.NoError(err)
	buffer, err := tensor.New(tensor.Float32, 2)
	is.NoError(err)
	b, err := c10d.NewGradBucket(c10d.BucketConfig{Index: 1, Count: 2, Buffer: buffer, Offsets: []int64{0}, Lengths: []int64{2}, Sizes: [][]int64{{2}}})
	is.NoError(err)
	future, err := h.RunHook(context.Background(), b)
	is.NoError(err)
	_, err = future.Wait(context.Background())
	is.NoError(err)
	after()
	is.NoError(rt.Close())
}

func childOutputWriter(is *require.Assertions) {
	var said bytes.Buffer
	talk(is, Output{Writer: &said}, "talks:hook", func() {})
	fmt.Print(said.String())
}

// What a hook prints reaches the writer in order, by lines, with the rank.
func TestPythonsOutputGoesToTheWritersLines(t *testing.T) {
	out := runChild(t, "output to a writer", "RANK=3")
	var lines []string
	for line := range strings.Lines(out) {
		if strings.HasPrefix(line, "[rank 3] ") {
			lines = append(lines, strings.TrimSuffix(strings.TrimPrefix(line, "[rank 3] "), "\n"))
		}
	}
	// torch may have had something to say at its import.
	lines = lines[max(0, slices.Index(lines, "hello from 1")):]
	for i, want := range []string{"hello from 1", "in parts and", "two lines", "to stderr", "a warning", "failed"} {
		require.Greater(t, len(lines), i, out)
		assert.Equal(t, want, lines[i])
	}
	assert.Contains(t, out, "    Traceback (most recent call last):\n")
	assert.Contains(t, out, `ValueError: an \udc80 odd one`)
	assert.Contains(t, lines, "from a thread")
	assert.Contains(t, lines, "at exit")
	assert.Contains(t, lines, "no end")
	assert.Contains(t, out, "UserWarning: deprecated")
	assert.NotContains(t, out, "not shown")
}

func childOutputLogger(is *require.Assertions) {
	var said bytes.Buffer
	handler := slog.NewTextHandler(&said, &slog.HandlerOptions{Level: slog.LevelDebug,
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		}})
	talk(is, Output{Logger: slog.New(handler)}, "talks:hook", func() {})
	fmt.Print(said.String())
}

func TestPythonsOutputGoesToSlogWithItsLevels(t *testing.T) {
	out := runChild(t, "output to slog", "RANK=0")
	assert.Contains(t, out, `level=INFO msg="hello from 1" rank=0 source=stdout`)
	assert.Contains(t, out, `level=WARN msg="to stderr" rank=0 source=stderr`)
	assert.Contains(t, out, `level=WARN msg="a warning" rank=0 source=my.hook`)
	assert.Contains(t, out, `level=ERROR msg="failed\nTraceback`)
	assert.Equal(t, 4, strings.Count(out, "level=ERROR")+strings.Count(out, `msg="to stderr"`)+strings.Count(out, "deprecated\"")+strings.Count(out, "a warning"))
}

// stuckWriter takes nothing until it may.
type stuckWriter struct {
	bytes.Buffer
	free chan struct{}
}

func (w *stuckWriter) Write(p []byte) (int, error) {
	<-w.free
	return w.Buffer.Write(p)
}

func childOutputFlood(is *require.Assertions) {
	said := &stuckWriter{free: make(chan struct{})}
	talk(is, Output{Writer: said}, "talks:floods", func() { close(said.free) })
	text := said.String()
	fmt.Println(strings.Count(text, "\n") < 20_000, strings.Contains(text, "lines of Python's output were dropped"))
}

func TestAStuckWriterHoldsUpNoHook(t *testing.T) {
	assert.Equal(t, "true true\n", runChild(t, "output faster than its writer"))
}
