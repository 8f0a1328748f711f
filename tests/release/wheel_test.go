package release_test

import (
	"context"
	"encoding/json"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// commandWheel is the wheel with the command, for this machine.
func commandWheel(t *testing.T) string {
	t.Helper()
	machine := map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[runtime.GOARCH]
	return the(t, "pyhook-*-py3-none-manylinux_2_34_"+machine+".whl")
}

// bare is an environment without Go, a clone or a named interpreter.
func bare(home string) []string {
	return []string{"PATH=/usr/bin:/bin", "HOME=" + home, "GLOO_SOCKET_IFNAME=lo"}
}

// all runs a program and returns all that it printed.
func all(t *testing.T, folder string, env []string, name string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env = folder, env
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// environment makes a virtual environment that sees the torch of the tests' interpreter.
func environment(t *testing.T, folder string) (python string) {
	t.Helper()
	ran(t, folder, bare(folder), pythonWithTorch(t), "-m", "venv", "--system-site-packages", filepath.Join(folder, "venv"))
	python = filepath.Join(folder, "venv", "bin", "python")
	asked := ran(t, folder, bare(folder), pythonWithTorch(t), "-c", "import os, torch; print(os.path.dirname(os.path.dirname(torch.__file__)))")
	sitePath(t, python, strings.TrimSpace(asked))
	return python
}

// sitePath has python see what another's site-packages has, which in a virtual environment of a
// virtual environment it would not.
func sitePath(t *testing.T, python, folder string) {
	t.Helper()
	own := strings.TrimSpace(ran(t, "/", bare("/"), python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"))
	require.NoError(t, os.WriteFile(filepath.Join(own, "torch.pth"), []byte(folder+"\n"), 0o644))
}

// hookThatSays is a file with a hook that prints which package of pyhook it runs in.
func hookThatSays(t *testing.T, folder string) (spec string) {
	t.Helper()
	file := filepath.Join(folder, "my_hooks.py")
	require.NoError(t, os.WriteFile(file, []byte(`
import sys
import pyhook
import torch

def hook(state, bucket):
    print("version", pyhook.__version__, "prefix", sys.prefix, file=sys.stderr)
    mean = bucket.buffer().div_(torch.distributed.get_world_size())
    return torch.distributed.all_reduce(mean, async_op=True).get_future().then(lambda f: f.value()[0])
`), 0o644))
	return file + ":hook"
}

// assertWorks runs the command that lies beside python, and looks that it uses that.
func assertWorks(t *testing.T, folder, python string, env []string) {
	t.Helper()
	command := filepath.Join(filepath.Dir(python), "pyhook")
	var said struct{ Version string }
	require.NoError(t, json.Unmarshal([]byte(ran(t, folder, env, command, "version", "--json")), &said))
	assert.Equal(t, version(t), said.Version)
	prefix := strings.TrimSpace(ran(t, folder, env, python, "-c", "import sys; print(sys.prefix)"))
	wheel := strings.Split(filepath.Base(commandWheel(t)), "-")[1]
	out, err := all(t, folder, env, command, "check", hookThatSays(t, folder), "-n", "2", "--steps", "2", "--sizes", "8")
	require.NoError(t, err, out)
	assert.Contains(t, out, "version "+wheel+" prefix "+prefix)
	assertTrains(t, ran(t, folder, env, command, "train", "-n", "2", "--hook", "fp16", "--epochs", "1", "--json"))
}

func TestWheel_command(t *testing.T) {
	commandWheel(t) // skips where no release was made
	t.Run("in a virtual environment", func(t *testing.T) {
		folder := t.TempDir()
		python := environment(t, folder)
		ran(t, folder, bare(folder), python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", commandWheel(t))
		assertWorks(t, folder, python, bare(folder))
		command := filepath.Join(filepath.Dir(python), "pyhook")
		ran(t, folder, bare(folder), command, "demo", "--out", filepath.Join(folder, "demo"))
		assert.FileExists(t, filepath.Join(folder, "demo", "summary.json"))
		t.Run("a clear word when the command in it is not for this system", func(t *testing.T) {
			binary := filepath.Join(strings.TrimSpace(ran(t, folder, bare(folder), python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))")), "pyhook_command", "pyhook")
			require.NoError(t, os.Truncate(binary, 0))
			out, err := all(t, folder, bare(folder), command, "version")
			require.Error(t, err)
			assert.Contains(t, out, "pip install --force-reinstall")
		})
	})
	t.Run("by uv", func(t *testing.T) {
		uv := os.Getenv("PYHOOK_UV")
		require.NotEmpty(t, uv, "PYHOOK_UV is not set: scripts/test.sh release sets it")
		folder := t.TempDir()
		python := environment(t, folder)
		ran(t, folder, bare(folder), uv, "pip", "install", "--quiet", "--offline", "--python", python, commandWheel(t))
		assertWorks(t, folder, python, bare(folder))
	})
	t.Run("in a prefix like conda's", func(t *testing.T) {
		other := os.Getenv("PYHOOK_OTHER_PYTHON")
		require.NotEmpty(t, other, "PYHOOK_OTHER_PYTHON is not set: scripts/test.sh release sets it")
		folder := t.TempDir()
		python := condaLike(t, folder, other)
		ran(t, folder, bare(folder), python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", commandWheel(t))
		assertWorks(t, folder, python, bare(folder))
		// Not on torch 1.13, which may hang or abort at the end of a plain DDP job with a Python hook.
		t.Run("a recording is replayed", func(t *testing.T) {
			ran(t, folder, bare(folder), python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "safetensors")
			script := filepath.Join(folder, "train.py")
			require.NoError(t, os.WriteFile(script, []byte(recordingTrainer), 0o644))
			trace := filepath.Join(folder, "trace")
			out, err := all(t, folder, bare(folder), python, script, trace)
			require.NoError(t, err, out)
			assert.Contains(t, ran(t, folder, bare(folder), filepath.Join(filepath.Dir(python), "pyhook"), "replay", trace), "the same bits")
		})
	})
	t.Run("two versions side by side", func(t *testing.T) {
		folder, beside := t.TempDir(), t.TempDir()
		python, other := environment(t, folder), environment(t, beside)
		ran(t, folder, bare(folder), python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", commandWheel(t))
		// The other one is of a version that there is not, and first wherever the command may look.
		ran(t, beside, bare(beside), other, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", the(t, "pyhook-*-py3-none-any.whl"))
		site := strings.TrimSpace(ran(t, beside, bare(beside), other, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"))
		init := filepath.Join(site, "pyhook", "__init__.py")
		source, err := os.ReadFile(init)
		require.NoError(t, err)
		wheel := strings.Split(filepath.Base(commandWheel(t)), "-")[1]
		changed := strings.Replace(string(source), `__version__ = "`+wheel+`"`, `__version__ = "0.0.1"`, 1)
		require.NotEqual(t, string(source), changed)
		require.NoError(t, os.WriteFile(init, []byte(changed), 0o644))
		assertWorks(t, folder, python, append(bare(folder), "PATH="+filepath.Dir(other)+":/usr/bin:/bin", "VIRTUAL_ENV="+filepath.Join(beside, "venv"), "PYTHONPATH="+site))
	})
}

// recordingTrainer is a job of two ranks in PyTorch that records its hook.
const recordingTrainer = `
import os
import sys

import pyhook
import torch
import torch.distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook


def rank(rank, trace, store):
    dist.init_process_group("gloo", init_method="file://" + store, rank=rank, world_size=2)
    torch.manual_seed(0)
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(8, 4))
    model.register_comm_hook(*pyhook.record(None, fp16_compress_hook, trace, steps=3, model=model))
    for step in range(4):
        model(torch.randn(2, 8)).sum().backward()
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.multiprocessing.spawn(rank, (sys.argv[1], os.path.abspath("store")), nprocs=2)
`

// condaLike makes a prefix as conda does: an interpreter with its own library, and no pyvenv.cfg. It
// sees the torch that of has.
func condaLike(t *testing.T, folder, of string) (python string) {
	t.Helper()
	var from struct{ Base, Exe, Stdlib, Site string }
	asked := ran(t, folder, bare(folder), of, "-c", `
import json, os, sys, sysconfig, torch
print(json.dumps({"base": sys.base_prefix, "exe": os.path.realpath(sys.executable), "stdlib": sysconfig.get_path("stdlib"),
    "site": os.path.dirname(os.path.dirname(torch.__file__))}))`)
	require.NoError(t, json.Unmarshal([]byte(asked), &from))
	prefix := filepath.Join(folder, "envs", "train")
	name := filepath.Base(from.Stdlib) // python3.13
	bin, lib := filepath.Join(prefix, "bin"), filepath.Join(prefix, "lib", name)
	for _, made := range []string{bin, filepath.Join(lib, "site-packages"), filepath.Join(prefix, "conda-meta")} {
		require.NoError(t, os.MkdirAll(made, 0o755))
	}
	python = filepath.Join(bin, "python")
	data, err := os.ReadFile(from.Exe)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(python, data, 0o755))
	require.NoError(t, os.Symlink("python", filepath.Join(bin, name)))
	entries, err := os.ReadDir(from.Stdlib)
	require.NoError(t, err)
	for _, e := range entries {
		if e.Name() != "site-packages" {
			require.NoError(t, os.Symlink(filepath.Join(from.Stdlib, e.Name()), filepath.Join(lib, e.Name())))
		}
	}
	libraries, err := filepath.Glob(filepath.Join(from.Base, "lib", "libpython*"))
	require.NoError(t, err)
	for _, l := range libraries {
		require.NoError(t, os.Symlink(l, filepath.Join(prefix, "lib", filepath.Base(l))))
	}
	pip, err := filepath.Glob(filepath.Join(from.Stdlib, "site-packages", "pip*"))
	require.NoError(t, err)
	for _, p := range pip {
		require.NoError(t, os.CopyFS(filepath.Join(lib, "site-packages", filepath.Base(p)), os.DirFS(p)))
	}
	sitePath(t, python, from.Site)
	_, err = os.Stat(filepath.Join(prefix, "pyvenv.cfg"))
	require.ErrorIs(t, err, fs.ErrNotExist)
	return python
}
