package launchers_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// venv is a virtual environment that finds the modules of the Python under test, torch
// among them.
func venv(t *testing.T) string {
	t.Helper()
	folder, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	folder = filepath.Join(folder, "venv")
	out, err := exec.Command(python, "-m", "venv", "--without-pip", folder).CombinedOutput()
	require.NoError(t, err, "%s", out)
	theirs, err := exec.Command(python, "-c", "import site; print('\\n'.join(site.getsitepackages()))").Output()
	require.NoError(t, err)
	own, err := filepath.Glob(filepath.Join(folder, "lib", "python*", "site-packages"))
	require.NoError(t, err)
	require.Len(t, own, 1)
	require.NoError(t, os.WriteFile(filepath.Join(own[0], "theirs.pth"), theirs, 0o644))
	return folder
}

// without leaves variables out of an environment.
func without(env []string, names ...string) []string {
	return slices.DeleteFunc(env, func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return slices.Contains(names, name)
	})
}

func TestTorchrun_python(t *testing.T) {
	// torchrun of an environment that is not activated: PATH and PYHOOK_PYTHON do not lead there.
	t.Run("ranks have the Python of their torchrun", func(t *testing.T) {
		if why := unable(); why != "" {
			t.Skip(why)
		}
		own := venv(t)
		folder := t.TempDir()
		job := "-m torch.distributed.run -r 1 -t 1 --standalone --nproc_per_node 1 --log_dir " + folder + " --no_python"
		cmd := exec.Command(filepath.Join(own, "bin", "python"), append(strings.Fields(job), binary, "doctor", "--quick", "--json")...)
		cmd.Env = append(without(environment(), "PYHOOK_PYTHON", "VIRTUAL_ENV", "CONDA_PREFIX"), "USE_LIBUV=0")
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		require.NoError(t, err, "%s%s", out, stderr.String())
		var said struct {
			Python struct{ Prefix, Source string }
		}
		require.NoError(t, json.Unmarshal(torchrunPrefix.ReplaceAll(out, nil), &said), "%s", out)
		assert.Equal(t, own, said.Python.Prefix)
		assert.Equal(t, fmt.Sprintf("torchrun's Python, process %d", cmd.Process.Pid), said.Python.Source)
	})
}

// otherPython is an interpreter whose torch's store speaks another protocol: one older than
// 2.1 beside a newer one.
func otherPython(t *testing.T) string {
	t.Helper()
	other := os.Getenv("PYHOOK_OTHER_PYTHON")
	if other == "" {
		t.Skip("PYHOOK_OTHER_PYTHON names a second interpreter, of which one has torch 2.1 or newer and one an older torch")
	}
	return other
}

// rankOf is a rank of a job of three hosts, of which the third does not come.
func rankOf(interpreter string, rank, port int) *exec.Cmd {
	cmd := exec.Command(binary, "train", "--hook", "allreduce", "--epochs", "1", "--batch", "63")
	cmd.Env = append(environment(), "PYHOOK_PYTHON="+interpreter, "RANK="+strconv.Itoa(rank), "WORLD_SIZE=3", "LOCAL_RANK=0", "LOCAL_WORLD_SIZE=1",
		"MASTER_ADDR=127.0.0.1", "MASTER_PORT="+strconv.Itoa(port))
	return cmd
}

func TestOtherTorch(t *testing.T) {
	t.Run("hosts with different torch are named", func(t *testing.T) {
		other := otherPython(t)
		for _, order := range [][2]string{{python, other}, {other, python}} {
			at := port(t)
			begin := time.Now()
			said := make([]string, 2)
			var group sync.WaitGroup
			for rank, interpreter := range order {
				group.Go(func() {
					cmd := rankOf(interpreter, rank, at)
					late := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
					defer late.Stop()
					out, _ := cmd.CombinedOutput()
					said[rank] = string(out)
				})
			}
			group.Wait()
			assert.Less(t, time.Since(begin), time.Minute, "nobody waits for rank 2")
			t.Logf("after %s: %.500s", time.Since(begin), said[0])
			for rank := range order {
				assert.Contains(t, said[rank], "the ranks' torch differs: rank 1 ", rank)
				assert.Contains(t, said[rank], " in "+order[0], rank)
				assert.Contains(t, said[rank], " in "+order[1], rank)
			}
		}
	})
	t.Run("an agent of another torch is named", func(t *testing.T) {
		other := otherPython(t)
		if why := unable(); why != "" {
			t.Skip(why)
		}
		for agent, ranks := range map[string]string{python: other, other: python} {
			folder := t.TempDir()
			// Not --standalone: on torch 1.13 rank 0 then serves the store, and all is well.
			job := "-m torch.distributed.run -r 1 -t 1 --master_port " + strconv.Itoa(port(t)) + " --nproc_per_node 2 --log_dir " + folder + " --no_python"
			cmd := exec.Command(agent, append(strings.Fields(job), binary, "train", "--hook", "allreduce")...)
			cmd.Env = append(without(environment(), "PYHOOK_PYTHON"), "PYHOOK_PYTHON="+ranks)
			begin := time.Now()
			out, err := cmd.CombinedOutput()
			require.Error(t, err)
			assert.Contains(t, string(out), "which torchrun's agent serves, is of a torch ")
			assert.Contains(t, string(out), " in "+ranks)
			assert.Less(t, time.Since(begin), time.Minute)
			t.Logf("after %s", time.Since(begin))
		}
	})
}
