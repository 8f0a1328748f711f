package pyhook

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/tensor"
)

func init() { children["first hook call"] = childFirstCall }

// childFirstCall starts Python, calls a hook, and prints what of ours was compiled for it.
func childFirstCall(is *require.Assertions) {
	ctx := context.Background()
	rt, err := Start(ctx, Config{Output: Output{Writer: io.Discard}})
	is.NoError(err)
	buffer, err := tensor.New(tensor.Float32, 4)
	is.NoError(err)
	b, err := c10d.NewGradBucket(c10d.BucketConfig{Count: 1, Buffer: buffer, Offsets: []int64{0}, Lengths: []int64{4}, Sizes: [][]int64{{4}}})
	is.NoError(err)
	hook, err := rt.NewHook(context.Background(), "noop", HookConfig{})
	is.NoError(err)
	future, err := hook.RunHook(ctx, b)
	is.NoError(err)
	_, err = future.Wait(ctx)
	is.NoError(err)
	noted, err := rt.Import(context.Background(), "sitecustomize")
	is.NoError(err)
	names, err := noted.Attr("compiled")
	is.NoError(err)
	list, err := names.Value()
	is.NoError(err)
	for _, name := range list.([]any) {
		if strings.Contains(name.(string), "pyhook") {
			fmt.Println(name)
		}
	}
}

func TestStart(t *testing.T) {
	folder := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(folder, name)
		require.NoError(t, os.WriteFile(path, []byte(text), mode))
		return path
	}
	write("sitecustomize.py", `import sys
compiled = []
sys.addaudithook(lambda event, args: event == "compile" and compiled.append(str(args[1])))
`, 0o644)
	log := write("log", "", 0o644)
	python := write("python3", fmt.Sprintf("#!/bin/sh\necho asked >> %s\nexec %s \"$@\"\n", log, rt.Info().Python), 0o755)
	// start is what a start compiled of ours, and how often it has run the interpreter.
	start := func() (compiled []string, runs int) {
		require.NoError(t, os.Truncate(log, 0))
		said := runChild(t, "first hook call", "PYHOOK_PYTHON="+python, "PYTHONPATH="+folder,
			"XDG_CACHE_HOME="+folder, "PYTHONDONTWRITEBYTECODE=")
		asked, err := os.ReadFile(log)
		require.NoError(t, err)
		return strings.Fields(said), strings.Count(string(asked), "asked")
	}
	compiled, runs := start()
	assert.Greater(t, len(compiled), 20)
	assert.Equal(t, 1, runs)
	t.Run("the second one compiles none of our Python up to its first hook call", func(t *testing.T) {
		compiled, runs = start()
		assert.Empty(t, compiled)
	})
	t.Run("the interpreter is run once as a program", func(t *testing.T) { assert.Equal(t, 1, runs) })
}
