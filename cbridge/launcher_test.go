package cbridge

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func init() { children["discovers"] = childDiscovers }

func childDiscovers(is *require.Assertions) {
	found, _, err := Discover(context.Background(), "")
	is.NoError(err)
	fmt.Printf("%s\n%s\n", found.Prefix, found.Source)
}

// agentSource starts a program as torchrun's agent does: in its own environment, and with a
// name for the run.
const agentSource = `
import os, subprocess, sys
env = dict(os.environ, TORCHELASTIC_RUN_ID="job 1", RANK="0")
sys.exit(subprocess.call(sys.argv[1:], env=env))
`

// The agent is a virtual environment's python that nobody activated: neither PATH nor
// VIRTUAL_ENV leads to it.
func TestDiscover_Launcher(t *testing.T) {
	venv, other := makeVenv(t), makeVenv(t)
	folder := filepath.Dir(venv)
	own := filepath.Join(venv, "bin", "python")
	for name, c := range map[string]struct {
		agent  string // as it is called
		path   string // in front of its PATH
		env    []string
		by     []string // what is between it and this program
		prefix string
		source string
	}{
		"an absolute path":          {agent: own, prefix: venv, source: "torchrun's Python, process "},
		"a path from its folder":    {agent: "venv/bin/python", prefix: venv, source: "torchrun's Python, process "},
		"a name that PATH leads to": {agent: "python3", path: filepath.Join(venv, "bin"), prefix: venv, source: "torchrun's Python, process "},
		"scripts in between, another Python too": {agent: own, by: []string{"sh", "-c", `"$@"; exit $?`, "sh", filepath.Join(other, "bin", "python"), "-c",
			"import subprocess, sys; sys.exit(subprocess.call(sys.argv[1:]))"}, prefix: venv, source: "torchrun's Python, process "},
		"before an environment that is activated": {agent: own, env: []string{"VIRTUAL_ENV=" + other}, prefix: venv, source: "torchrun's Python, process "},
		"PYHOOK_PYTHON before it":                 {agent: own, env: []string{"PYHOOK_PYTHON=" + filepath.Join(other, "bin", "python")}, prefix: other, source: "PYHOOK_PYTHON"},
	} {
		t.Run(name, func(t *testing.T) {
			args := append([]string{"-c", agentSource}, c.by...)
			cmd := exec.Command(c.agent, append(args, os.Args[0], "-test.run=^ExampleStart$")...)
			cmd.Dir = folder
			path := os.Getenv("PATH")
			if c.path != "" { // exec.Command looks in this process's PATH
				path = c.path + string(os.PathListSeparator) + path
				cmd.Path, cmd.Err = filepath.Join(c.path, c.agent), nil
			} else if !filepath.IsAbs(c.agent) {
				cmd.Path, cmd.Err = own, nil
			}
			for _, kv := range os.Environ() {
				if k, _, _ := strings.Cut(kv, "="); k != "PYHOOK_PYTHON" && k != "VIRTUAL_ENV" && k != "CONDA_PREFIX" && k != "PATH" {
					cmd.Env = append(cmd.Env, kv)
				}
			}
			cmd.Env = append(append(cmd.Env, childCase+"=discovers", "PATH="+path), c.env...)
			cmd.Stderr = os.Stderr
			out, err := cmd.Output()
			require.NoError(t, err, "%s", out)
			prefix, source, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
			assert.Equal(t, c.prefix, prefix)
			assert.True(t, strings.HasPrefix(source, c.source), source)
		})
	}
}

func TestDiscover_OtherLaunchers(t *testing.T) {
	// torchrun as a container's command is process 1 there.
	t.Run("a container's first process", func(t *testing.T) {
		alone := []string{"unshare", "--pid", "--fork", "--mount-proc"}
		if out, err := exec.Command(alone[0], append(alone[1:], "true")...).CombinedOutput(); err != nil {
			if os.Getenv("CI") != "" {
				t.Fatalf("a process namespace takes root, which CI has to give: %s", out)
			}
			t.Skipf("SKIPPED, not tested: a process namespace takes root, outside a chroot: %s", out)
		}
		venv := makeVenv(t)
		cmd := exec.Command(alone[0], append(alone[1:], filepath.Join(venv, "bin", "python"), "-c", agentSource,
			os.Args[0], "-test.run=^ExampleStart$")...)
		cmd.Env = append(os.Environ(), childCase+"=discovers", "PYHOOK_PYTHON=", "VIRTUAL_ENV=", "CONDA_PREFIX=")
		cmd.Stderr = os.Stderr
		out, err := cmd.Output()
		require.NoError(t, err, "%s", out)
		assert.Equal(t, venv+"\ntorchrun's Python, process 1\n", string(out))
	})
	t.Run("one that is no Python is not asked", func(t *testing.T) {
		environment(t, nil)
		t.Setenv(runIDVariable, "job") // this process's parent is the go command
		_, ok := launcherPython()
		assert.False(t, ok)
		t.Setenv(runIDVariable, "")
		_, ok = launcherPython()
		assert.False(t, ok, "nobody launched it")
	})
	// A process may have any name, with brackets and spaces in it.
	t.Run("a process is read whatever its name", func(t *testing.T) {
		folder := filepath.Join(t.TempDir(), "a ) b (")
		require.NoError(t, os.Mkdir(folder, 0o755))
		link := filepath.Join(folder, "x) R 1 (y")
		cat, err := exec.LookPath("cat")
		require.NoError(t, err)
		data, err := os.ReadFile(cat)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(link, data, 0o755))
		cmd := exec.Command(link)
		cmd.Env, cmd.Dir = []string{"A=b=c"}, folder
		in, err := cmd.StdinPipe()
		require.NoError(t, err)
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		defer func() { _ = cmd.Wait() }()
		defer func() { _ = cmd.Process.Kill() }()
		_, err = in.Write([]byte{'x'})
		require.NoError(t, err)
		_, err = io.ReadFull(out, make([]byte, 1))
		require.NoError(t, err, "when Start returns, the kernel may not have put the environment in place")
		p, err := readProcess(cmd.Process.Pid)
		require.NoError(t, err)
		assert.Equal(t, os.Getpid(), p.parent)
		assert.Equal(t, link, p.program)
		assert.Equal(t, folder, p.folder)
		assert.Equal(t, map[string]string{"A": "b=c"}, p.environ)
		_, python := p.python()
		assert.False(t, python)
		_, err = readProcess(1 << 30)
		assert.Error(t, err)
	})
}
