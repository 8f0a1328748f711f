// Package patched runs the trainer of an adapter's README: the stock one in testdata/trainer.go,
// changed as the README's diff says.
package patched

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Run applies the diff of README.md to testdata/trainer.go, both in the test's folder, and returns
// what the stock trainer, with stockEnv in its environment too, and the changed one print.
func Run(t *testing.T, stockEnv ...string) (stock, changed string) {
	t.Helper()
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	diff := regexp.MustCompile("(?s)```diff\n(.*?)```").FindSubmatch(readme)
	require.NotNil(t, diff, "the README has no diff")
	trainer, err := os.ReadFile(filepath.Join("testdata", "trainer.go"))
	require.NoError(t, err)
	folder := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(folder, "trainer.go"), trainer, 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(folder, "diff"), diff[1], 0o600))
	apply(t, folder)
	return run(t, filepath.Join("testdata", "trainer.go"), stockEnv...), run(t, filepath.Join(folder, "trainer.go"))
}

func apply(t *testing.T, folder string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "git", "apply", "--unidiff-zero", "diff")
	cmd.Dir = folder
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
}

// run runs a program in the test's module, wherever its file is.
func run(t *testing.T, file string, env ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "run", file)
	cmd.Env = append(append(os.Environ(), "GLOO_SOCKET_IFNAME=lo"), env...)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	return string(out)
}
