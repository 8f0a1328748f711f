// Package clitest runs the real pyhook command for the tests of its subcommands.
package clitest

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write the golden files anew")

// Binary is the real command, built once.
var Binary string

// Main builds the command, runs the tests of a package with it and ends the process: call it
// from TestMain.
func Main(m *testing.M) {
	flag.Parse()
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "pyhook-test-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		// tests/matrix runs where Go is not; scripts/test.sh links it once for all packages.
		if Binary = cmp.Or(os.Getenv("PYHOOK_TEST_COMMAND"), os.Getenv("PYHOOK_LINKED_COMMAND")); Binary != "" {
			return m.Run()
		}
		Binary = filepath.Join(dir, "pyhook")
		build := exec.Command("go", "build", "-buildvcs=false", "-ldflags", "-X main.version=v0.0.0-test", "-o", Binary, "pyhook/cmd/pyhook")
		build.Stdout, build.Stderr = os.Stderr, os.Stderr
		build.Env = append(os.Environ(), "GOEXPERIMENT=") // what the tests are built with is no part of the command
		if err := build.Run(); err != nil {
			fmt.Fprintln(os.Stderr, "building the command:", err)
			return 1
		}
		return m.Run()
	}())
}

// Golden compares text with a file of testdata/golden.
func Golden(t *testing.T, name, text string) {
	t.Helper()
	path := filepath.Join("testdata", "golden", name)
	if *update {
		require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	assert.Equal(t, string(want), text, "go test -update writes %s anew", path)
}

// Result is what a run of the command gave.
type Result struct {
	Code           int
	Stdout, Stderr string
}

// NeedTorch leaves out, with -short, what runs the real command.
func NeedTorch(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("runs the real command with torch")
	}
}

// Command runs the binary in testdata, where the hooks are, if the package has that folder.
func Command(t *testing.T, env []string, args ...string) Result {
	t.Helper()
	return CommandAt(t, Testdata(), env, args...)
}

// Testdata is the folder of the package's test files.
func Testdata() string {
	if _, err := os.Stat("testdata"); err != nil {
		return "."
	}
	return "testdata"
}

// CommandAt runs the binary in a folder.
func CommandAt(t *testing.T, folder string, env []string, args ...string) Result {
	t.Helper()
	NeedTorch(t)
	cmd := exec.Command(Binary, args...)
	cmd.Dir = folder
	cmd.Env = append(CleanEnvironment(), env...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	start := time.Now()
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		require.NoError(t, err)
	}
	t.Logf("pyhook %s: exit %d after %s", strings.Join(args, " "), cmd.ProcessState.ExitCode(), time.Since(start).Round(time.Millisecond))
	return Result{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// CleanEnvironment leaves out a launcher that may have started the tests.
func CleanEnvironment() []string {
	var env []string
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		switch {
		case name == "RANK", name == "WORLD_SIZE", name == "OMP_NUM_THREADS", strings.HasPrefix(name, "PET_"),
			strings.HasPrefix(name, "SLURM_"), strings.HasPrefix(name, "OMPI_"), strings.HasPrefix(name, "PMI_"):
		default:
			env = append(env, kv)
		}
	}
	return env
}

// Interrupted runs the command until its output says ready, then sends a signal.
func Interrupted(t *testing.T, sig syscall.Signal, ready string, args ...string) Result {
	t.Helper()
	NeedTorch(t)
	cmd := exec.Command(Binary, args...)
	cmd.Dir, cmd.Env = Testdata(), CleanEnvironment()
	var stdout bytes.Buffer
	cmd.Stdout = &stdout
	stderr, err := cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	timer := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	var text bytes.Buffer
	buffer := make([]byte, 4096)
	sent := false
	for {
		n, err := stderr.Read(buffer)
		text.Write(buffer[:n])
		if !sent && strings.Contains(text.String(), ready) {
			sent = true
			require.NoError(t, cmd.Process.Signal(sig))
		}
		if err != nil {
			break
		}
	}
	_ = cmd.Wait() // the code is what matters
	return Result{cmd.ProcessState.ExitCode(), stdout.String(), text.String()}
}

// Parse reads the one JSON value that a command printed.
func Parse[T any](t *testing.T, text string) T {
	t.Helper()
	var v T
	decoder := json.NewDecoder(strings.NewReader(text))
	require.NoError(t, decoder.Decode(&v), "%s", text)
	assert.False(t, decoder.More(), "more than one JSON value: %s", text)
	return v
}

// NeedFields fails the test unless help names every field of value's JSON.
func NeedFields(t *testing.T, help string, value any) {
	t.Helper()
	text, err := json.Marshal(value)
	require.NoError(t, err)
	for name := range fieldNames(t, text) {
		assert.Contains(t, help, name)
	}
}

// fieldNames of all objects in the JSON text, but not of the maps' keys.
func fieldNames(t *testing.T, text []byte) map[string]bool {
	t.Helper()
	var value any
	require.NoError(t, json.Unmarshal(text, &value))
	names := map[string]bool{}
	var walk func(any)
	walk = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			for name, inner := range v {
				if !strings.EqualFold(name, "g") {
					names[name] = true
				}
				walk(inner)
			}
		case []any:
			for _, inner := range v {
				walk(inner)
			}
		}
	}
	walk(value)
	return names
}
