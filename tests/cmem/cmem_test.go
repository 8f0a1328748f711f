package cmem

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"pyhook/cbridge"
)

// build compiles the program with the C files of the packages.
func build(t *testing.T, flags ...string) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "cmem")
	args := append([]string{"-std=gnu11", "-g", "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter", "-Wno-sign-compare"}, flags...)
	for _, folder := range []string{"testdata", "../../cbridge", "../../internal/memory", "../../tensor"} {
		files, err := filepath.Glob(filepath.Join(folder, "*.c"))
		require.NoError(t, err)
		require.NotEmpty(t, files, folder)
		args = append(args, files...)
	}
	compiler := os.Getenv("CC")
	if compiler == "" {
		compiler = "gcc"
	}
	run(t, nil, compiler, append(args, "-o", program, "-ldl", "-lpthread", "-lm")...)
	return program
}

// run runs a command and returns what it wrote.
func run(t *testing.T, env []string, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), env...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	require.NoError(t, err, "%s %v\n%s", name, args, out.String())
	return out.String()
}

// python are the program's arguments: a libpython, its version and interpreter.
func python(t *testing.T) []string {
	t.Helper()
	found, _, err := cbridge.Discover(t.Context(), "")
	require.NoError(t, err)
	for _, library := range found.Libraries {
		if _, err := os.Stat(library); err == nil {
			return []string{library, found.Version, found.Executable}
		}
	}
	require.FailNow(t, "none of the libraries is there", "%v", found.Libraries)
	return nil
}

func TestTheCPartDoesWhatItSays(t *testing.T) {
	program := build(t, "-O2")
	require.Contains(t, run(t, nil, program, python(t)...), "ok")
}

func TestTheCPartIsCleanUnderTheSanitizers(t *testing.T) {
	program := build(t, "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
	// CPython keeps memory to the end by design; what is lost, valgrind finds.
	env := []string{"ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1", "PYTHONMALLOC=malloc"}
	require.Contains(t, run(t, env, program, python(t)...), "ok")
}

func TestTheCPartIsCleanUnderValgrind(t *testing.T) {
	if os.Getenv("PYHOOK_VALGRIND") == "" {
		t.Skip("set PYHOOK_VALGRIND=1 (make test-deep does)")
	}
	program := build(t, "-O1")
	args := []string{"--quiet", "--leak-check=full", "--show-leak-kinds=definite", "--errors-for-leak-kinds=definite",
		"--suppressions=testdata/cpython.supp", "--error-exitcode=9", "--num-callers=20", program}
	out := run(t, []string{"PYTHONMALLOC=malloc"}, "valgrind", append(args, python(t)...)...)
	require.Contains(t, out, "ok")
	require.NotContains(t, out, "==", "valgrind has nothing to say")
}
