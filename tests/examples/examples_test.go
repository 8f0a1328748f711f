// Package examples_test builds every program of the folder examples, runs it alone and on two ranks,
// and compares what it prints.
package examples_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/internal/testutil"
	"pyhook/launch"
)

const root = "../.." // examples name their .py files as seen from there

// examples are the programs, and their lines for one rank and for two, sorted: ranks print at their
// own time.
var examples = map[string][2]string{
	"minimal": {`
rank 0 of 1: mean gradient [0 1 2 3 4 5]
`, `
rank 0 of 2: mean gradient [0.5 1.5 2.5 3.5 4.5 5.5]
rank 1 of 2: mean gradient [0.5 1.5 2.5 3.5 4.5 5.5]
`},
	"pythonhook": {`
rank 0 of 1, step 0: mean [0 0]
rank 0 of 1, step 1: mean [0 1]
rank 0 of 1, step 2: mean [1 0]
rank 0 of 1, step 3: mean [0 1]
rank 0 of 1, sum: [1 2], without rounding: [1 2]
`, `
rank 0 of 2, step 0: mean [0.5 1]
rank 0 of 2, step 1: mean [1 1]
rank 0 of 2, step 2: mean [1 1]
rank 0 of 2, step 3: mean [0.5 1]
rank 0 of 2, sum: [3 4], without rounding: [3 4]
rank 1 of 2, step 0: mean [0.5 1]
rank 1 of 2, step 1: mean [1 1]
rank 1 of 2, step 2: mean [1 1]
rank 1 of 2, step 3: mean [0.5 1]
rank 1 of 2, sum: [3 4], without rounding: [3 4]
`},
	"gohook": {`
rank 0 of 1: mean gradient [0 3]
`, `
rank 0 of 2: mean gradient [0.5 3]
rank 1 of 2: mean gradient [0.5 3]
`},
	"worker": {`
rank 0 of 1: weight 7.75 after 5 steps, tried 6 times
`, `
rank 0 of 2: weight 11.625 after 5 steps, tried 6 times
rank 1 of 2: weight 11.625 after 5 steps, tried 6 times
`},
	"sparse": {`
rank 0 of 1: mean of row 100 is [2 2]
rank 0 of 1: mean of row 7 is [4 8]
`, `
rank 0 of 2: mean of row 100 is [1 1]
rank 0 of 2: mean of row 101 is [2 2]
rank 0 of 2: mean of row 7 is [4 8]
rank 1 of 2: mean of row 100 is [1 1]
rank 1 of 2: mean of row 101 is [2 2]
rank 1 of 2: mean of row 7 is [4 8]
`},
	"uneven": {`
rank 0 of 1: weight 9 after 1 batches of its own, 9 at the end
`, `
rank 0 of 2: weight 8.5 after 1 batches of its own, 7.5 at the end
rank 1 of 2: weight 7.5 after 2 batches of its own, 7.5 at the end
`},
}

// variables are what launchers set, and gloo's interface, which is loopback here.
var variables = []string{"RANK=", "WORLD_SIZE=", "LOCAL_", "GROUP_", "MASTER_", "TORCHELASTIC_", "PET_", "SLURM_", "OMPI_", "PMI_",
	"MV2_", "GLOO_SOCKET_IFNAME="}

func environment() []string {
	env := slices.DeleteFunc(os.Environ(), func(variable string) bool {
		return slices.ContainsFunc(variables, func(prefix string) bool { return strings.HasPrefix(variable, prefix) })
	})
	return append(env, "GLOO_SOCKET_IFNAME=lo", "OMP_NUM_THREADS=1")
}

// output runs an example and returns its sorted lines.
func output(t *testing.T, example string, ranks int) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	var stdout, stderr bytes.Buffer
	var err error
	switch {
	case ranks == 1 || filepath.Base(example) == "gohook": // whose ranks are goroutines
		cmd := exec.CommandContext(ctx, example)
		if ranks > 1 {
			cmd.Args = append(cmd.Args, "-n", "2")
		}
		cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = root, environment(), &stdout, &stderr
		err = cmd.Run()
	default:
		err = launch.Spawn(ctx, launch.SpawnConfig{
			Command: []string{example}, N: ranks, Dir: root, Env: environment(), GracePeriod: 3 * time.Second,
			Show: launch.ShowPlain, Stdout: &stdout, Stderr: &stderr,
		})
	}
	require.NoError(t, err, "%s%s", stdout.Bytes(), stderr.Bytes())
	lines := slices.Sorted(strings.Lines(stdout.String()))
	return strings.Join(lines, "")
}

func TestExamples(t *testing.T) {
	bin := t.TempDir()
	args := []string{"build", "-buildvcs=false", "-ldflags=-w", "-o", bin + "/"}
	if testutil.Race { // as this test is built: then nothing is compiled twice
		args = append(args, "-race")
	}
	build := exec.CommandContext(t.Context(), "go", append(args, "./examples/...")...)
	build.Dir = root
	text, err := build.CombinedOutput()
	require.NoError(t, err, "%s", text)

	t.Run("each has its output here", func(t *testing.T) {
		built, err := os.ReadDir(bin)
		require.NoError(t, err)
		for _, example := range built {
			assert.Contains(t, examples, example.Name())
		}
		assert.Len(t, built, len(examples))
	})
	t.Run("each is in the README's table, and of 60 lines or fewer", func(t *testing.T) {
		table, err := os.ReadFile(filepath.Join(root, "examples", "README.md"))
		require.NoError(t, err)
		for name := range examples {
			assert.Contains(t, string(table), "| ["+name+"]("+name+"/main.go) |")
			source, err := os.ReadFile(filepath.Join(root, "examples", name, "main.go"))
			require.NoError(t, err)
			assert.LessOrEqual(t, bytes.Count(source, []byte("\n")), 60, name)
		}
	})
	t.Run("minimal is of fewer than 25 lines that are neither empty nor comments", func(t *testing.T) {
		source, err := os.ReadFile(filepath.Join(root, "examples", "minimal", "main.go"))
		require.NoError(t, err)
		lines := regexp.MustCompile(`(?m)^\s*[^\s/]`).FindAll(source, -1)
		assert.Greater(t, len(lines), 10)
		assert.Less(t, len(lines), 25)
	})
	t.Run("the hook in Go needs no Python", func(t *testing.T) {
		list := exec.CommandContext(t.Context(), "go", "list", "-deps", "./examples/gohook")
		list.Dir = root
		deps, err := list.Output()
		require.NoError(t, err)
		assert.Contains(t, string(deps), "pyhook/ddp\n")
		for _, python := range []string{"pyhook/cbridge\n", "pyhook/tensorconv\n", "pyhook/pyhook\n"} {
			assert.NotContains(t, string(deps), python)
		}
	})
	for name, want := range examples {
		for i, ranks := range []string{"alone", "on two ranks"} {
			t.Run(name+" "+ranks, func(t *testing.T) {
				t.Parallel()
				assert.Equal(t, strings.TrimPrefix(want[i], "\n"), output(t, filepath.Join(bin, name), i+1))
			})
		}
	}
}
