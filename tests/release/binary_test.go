package release_test

import (
	"context"
	"debug/buildinfo"
	"debug/elf"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/cbridge"
)

// glibc is the newest glibc that a binary may need, as 2.x: what docs/releases.md
// says. It comes of the machine that builds, so an upgrade of it shows here.
const glibc = 34

// TestTheBinaryNeedsNothingButLibc is what the releases promise of any
// distribution: libpython is found and loaded at run time.
func TestTheBinaryNeedsNothingButLibc(t *testing.T) {
	for arch, want := range map[string]struct {
		machine elf.Machine
		loader  string
	}{"amd64": {elf.EM_X86_64, "ld-linux-x86-64.so.2"}, "arm64": {elf.EM_AARCH64, "ld-linux-aarch64.so.1"}} {
		t.Run(arch, func(t *testing.T) {
			file, err := elf.Open(filepath.Join(unpacked(t, arch), "pyhook"))
			require.NoError(t, err)
			defer file.Close()
			assert.Equal(t, want.machine, file.Machine)
			libraries, err := file.ImportedLibraries()
			require.NoError(t, err)
			assert.Contains(t, libraries, "libc.so.6")
			assert.Subset(t, []string{"libc.so.6", want.loader}, libraries)
			symbols, err := file.ImportedSymbols()
			require.NoError(t, err)
			newest := 0
			for _, s := range symbols {
				if _, text, ok := strings.Cut(s.Version, "GLIBC_2."); ok {
					minor, _, _ := strings.Cut(text, ".")
					n, err := strconv.Atoi(minor)
					require.NoError(t, err, "%s", s.Version)
					newest = max(newest, n)
				}
			}
			assert.Positive(t, newest)
			assert.LessOrEqual(t, newest, glibc, "GLIBC_2.%d", newest)
		})
	}
}

// ran runs a program and returns its stdout. The deadline is an emulator's.
func ran(t *testing.T, folder string, env []string, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env = folder, env
	var failed strings.Builder
	cmd.Stderr = &failed
	out, err := cmd.Output()
	require.NoError(t, err, "%s %v\n%s%s", name, args, out, failed.String())
	return string(out)
}

// pythonWithTorch is the interpreter that the tests use.
func pythonWithTorch(t *testing.T) string {
	t.Helper()
	found, _, err := cbridge.Discover(context.Background(), os.Getenv("PYHOOK_PYTHON"), "torch")
	require.NoError(t, err)
	return found.Executable
}

func TestTheCommandRunsFromTheArchive(t *testing.T) {
	folder := unpacked(t, runtime.GOARCH)
	command := filepath.Join(folder, "pyhook")
	var said struct{ Version, Commit, Arch string }
	require.NoError(t, json.Unmarshal([]byte(ran(t, folder, []string{}, command, "version", "--json")), &said))
	assert.Equal(t, version(t), said.Version)
	assert.Regexp(t, `^[0-9a-f]{40}$`, said.Commit)
	assert.Equal(t, runtime.GOARCH, said.Arch)

	env := []string{"PATH=/usr/bin:/bin", "HOME=" + t.TempDir(), "PYHOOK_PYTHON=" + pythonWithTorch(t), "GLOO_SOCKET_IFNAME=lo"}
	assertTrains(t, ran(t, folder, env, command, "train", "-n", "2", "--hook", "fp16", "--epochs", "1", "--json"))
}

// assertTrains looks at the report of one epoch on two ranks.
func assertTrains(t *testing.T, out string) {
	t.Helper()
	var report struct {
		Size             int  `json:"world_size"`
		Steps            int  `json:"steps"`
		WeightsIdentical bool `json:"weights_identical"`
	}
	require.NoError(t, json.Unmarshal([]byte(out), &report), "%s", out)
	assert.Equal(t, 2, report.Size)
	assert.Equal(t, 22, report.Steps)
	assert.True(t, report.WeightsIdentical)
}

// TestTheWheelInstalls installs it without an index, into an environment that
// has torch, and runs a hook with it from outside of the clone.
func TestTheWheelInstalls(t *testing.T) {
	folder := t.TempDir()
	venv := filepath.Join(folder, "venv")
	env := []string{"PATH=/usr/bin:/bin", "HOME=" + folder}
	ran(t, folder, env, pythonWithTorch(t), "-m", "venv", "--system-site-packages", venv)
	python := filepath.Join(venv, "bin", "python")
	wheel := the(t, "pyhook-*-py3-none-any.whl")
	ran(t, folder, env, python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", wheel)
	out := ran(t, folder, env, python, "-c", `
import pyhook, torch
from pyhook import testing
hook = pyhook.load_hook("fp16")
print(pyhook.__version__, pyhook.__file__, testing.run(hook, None, testing.bucket([torch.ones(3)])).tolist())
`)
	wheelVersion := strings.Split(filepath.Base(wheel), "-")[1]
	assert.Contains(t, out, wheelVersion+" "+venv+"/")
	assert.Contains(t, out, "[1.0, 1.0, 1.0]")
	if tagged := strings.TrimPrefix(version(t), "v"); strings.Count(tagged, ".") == 2 && !strings.Contains(tagged, "-") {
		assert.Equal(t, tagged, wheelVersion)
	}
}

func TestTheBillOfMaterialsNamesAllThatIsLinked(t *testing.T) {
	text, err := os.ReadFile(the(t, "pyhook-*.cdx.json"))
	require.NoError(t, err)
	var bom struct {
		BOMFormat  string
		Components []struct {
			Name, Version string
			Hashes        []struct{ Content string }
		}
	}
	require.NoError(t, json.Unmarshal(text, &bom))
	assert.Equal(t, "CycloneDX", bom.BOMFormat)
	parts := map[string]string{}
	for _, c := range bom.Components {
		parts[c.Name] = c.Version
		assert.Equal(t, c.Name == "std", len(c.Hashes) == 0, "%s has a checksum", c.Name)
	}
	for _, arch := range []string{"amd64", "arm64"} {
		folder := unpacked(t, arch)
		info, err := buildinfo.ReadFile(filepath.Join(folder, "pyhook"))
		require.NoError(t, err)
		licenses, err := os.ReadFile(filepath.Join(folder, "licenses.txt"))
		require.NoError(t, err)
		require.NotEmpty(t, info.Deps)
		assert.Equal(t, info.GoVersion, parts["std"])
		for _, m := range info.Deps {
			assert.Equal(t, m.Version, parts[m.Path], m.Path)
			assert.Contains(t, string(licenses), "\n"+m.Path+" "+m.Version+", ")
		}
	}
}
