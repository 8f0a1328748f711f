package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write the golden files anew")

// binary is the real command, built once.
var binary string

// runTests builds the command, runs the tests of a package with it and ends the process: call it
// from TestMain.
func runTests(m *testing.M) {
	flag.Parse()
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "pyhook-test-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		if binary = os.Getenv("PYHOOK_TEST_COMMAND"); binary != "" { // tests/matrix runs where Go is not
			return m.Run()
		}
		binary = filepath.Join(dir, "pyhook")
		build := exec.Command("go", "build", "-buildvcs=false", "-ldflags", "-X main.version=v0.0.0-test", "-o", binary, "pyhook/cmd/pyhook")
		build.Stdout, build.Stderr = os.Stderr, os.Stderr
		build.Env = append(os.Environ(), "GOEXPERIMENT=") // what the tests are built with is no part of the command
		if err := build.Run(); err != nil {
			fmt.Fprintln(os.Stderr, "building the command:", err)
			return 1
		}
		return m.Run()
	}())
}

// golden compares text with a file of testdata/golden.
func golden(t *testing.T, name, text string) {
	t.Helper()
	path := filepath.Join("testdata", "golden", name)
	if *update {
		require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	assert.Equal(t, string(want), text, "go test -update writes %s anew", path)
}

// result is what a run of the command gave.
type result struct {
	code           int
	stdout, stderr string
}

// needTorch leaves out, with -short, what runs the real command.
func needTorch(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("runs the real command with torch")
	}
}

// command runs the binary in testdata, where the hooks are, if the package has that folder.
func command(t *testing.T, env []string, args ...string) result {
	t.Helper()
	return commandIn(t, testdata(), env, args...)
}

// testdata is the folder of the package's test files.
func testdata() string {
	if _, err := os.Stat("testdata"); err != nil {
		return "."
	}
	return "testdata"
}

// commandIn runs the binary in a folder.
func commandIn(t *testing.T, folder string, env []string, args ...string) result {
	t.Helper()
	needTorch(t)
	cmd := exec.Command(binary, args...)
	cmd.Dir = folder
	cmd.Env = append(cleanEnvironment(), env...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	start := time.Now()
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		require.NoError(t, err)
	}
	t.Logf("pyhook %s: exit %d after %s", strings.Join(args, " "), cmd.ProcessState.ExitCode(), time.Since(start).Round(time.Millisecond))
	return result{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// cleanEnvironment leaves out a launcher that may have started the tests.
func cleanEnvironment() []string {
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

// interrupted runs the command until its output says ready, then sends a signal.
func interrupted(t *testing.T, sig syscall.Signal, ready string, args ...string) result {
	t.Helper()
	needTorch(t)
	cmd := exec.Command(binary, args...)
	cmd.Dir, cmd.Env = testdata(), cleanEnvironment()
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
	return result{cmd.ProcessState.ExitCode(), stdout.String(), text.String()}
}

// parse reads the one JSON value that a command printed.
func parse[T any](t *testing.T, text string) T {
	t.Helper()
	var v T
	decoder := json.NewDecoder(strings.NewReader(text))
	require.NoError(t, decoder.Decode(&v), "%s", text)
	assert.False(t, decoder.More(), "more than one JSON value: %s", text)
	return v
}

// needFields fails the test unless help names every field of value's JSON.
func needFields(t *testing.T, help string, value any) {
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

// freePort is a TCP port that nobody listens at.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
}
