// Package build tests how a trainer's module is built with pyhook in it.
package build

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const trainer = `package main

import (
	"fmt"

	"pyhook/c10d"
	"pyhook/ddp"
	"pyhook/pyhook"
)

var _ pyhook.Config

func main() { fmt.Println(ddp.Options{}.Order, c10d.ErrClosed) }
`

// run runs a command line in a folder and returns all that it printed.
func run(t *testing.T, folder, line string, env ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(context.Background(), "bash", "-euc", line)
	cmd.Dir, cmd.Env = folder, append(append(os.Environ(), "GOFLAGS=", "GOEXPERIMENT="), env...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// module makes an empty module beside a clone of pyhook, and runs the README's line in it.
func module(t *testing.T) (folder string) {
	t.Helper()
	root, err := filepath.Abs("../..")
	require.NoError(t, err)
	readme, err := os.ReadFile(filepath.Join(root, "README.md"))
	require.NoError(t, err)
	line := regexp.MustCompile("(?m)^go mod edit .*$").FindString(string(readme))
	require.NotEmpty(t, line, "the README says no more how to use pyhook in a module")
	top := t.TempDir()
	require.NoError(t, os.Symlink(root, filepath.Join(top, "pyhook")))
	folder = filepath.Join(top, "trainer")
	require.NoError(t, os.Mkdir(folder, 0o700))
	out, err := run(t, folder, "go mod init example.com/trainer\n"+line)
	require.NoError(t, err, out)
	return folder
}

// TestREADME_UseInATrainer: the line works in an empty module, requires nothing that only the command
// needs, and code that comes later builds.
func TestREADME_UseInATrainer(t *testing.T) {
	folder := module(t)
	requires(t, folder)
	require.NoError(t, os.WriteFile(filepath.Join(folder, "main.go"), []byte(trainer), 0o600))
	out, err := run(t, folder, "go run .")
	require.NoError(t, err, out)
	assert.Equal(t, "auto used after Close\n", out)
	out, err = run(t, folder, "go mod tidy && go build .")
	require.NoError(t, err, out)
	requires(t, folder)
}

// requires fails the test unless the trainer's module requires nothing but pyhook and
// golang.org/x/sys: what the command needs, cobra and its like, is no trainer's.
func requires(t *testing.T, folder string) {
	t.Helper()
	out, err := run(t, folder, "go mod edit -json")
	require.NoError(t, err, out)
	var module struct{ Require []struct{ Path string } }
	require.NoError(t, json.Unmarshal([]byte(out), &module), out)
	require.NotEmpty(t, module.Require)
	for _, r := range module.Require {
		assert.Contains(t, []string{"pyhook", "golang.org/x/sys"}, r.Path)
	}
}

func TestBuild_WithoutCgo(t *testing.T) {
	folder := module(t)
	require.NoError(t, os.WriteFile(filepath.Join(folder, "main.go"), []byte(trainer), 0o600))
	out, err := run(t, folder, "go build .", "CGO_ENABLED=0")
	require.Error(t, err)
	assert.Contains(t, out, "pyhook needs cgo: unset CGO_ENABLED")
	assert.Equal(t, 1, strings.Count(out, ".go:"), "nothing but that sentence:\n%s", out)
}
