// Package mnisttest tests an adapter's example on MNIST as its users run it.
package mnisttest

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/cbridge"
)

// Run builds the program in the test's folder and tests it.
func Run(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "mnist")
	out, err := exec.CommandContext(t.Context(), "go", "build", "-o", binary, ".").CombinedOutput()
	require.NoError(t, err, string(out))

	t.Run("2 ranks of 32 learn what 1 of 64 learns", func(t *testing.T) {
		two := accuracy(t, run(t, binary, "-n", "2", "--steps", "300"))
		one := accuracy(t, run(t, binary, "--batch", "64", "--hook", "none", "--steps", "300"))
		assert.InDelta(t, one, two, 0.5)
		assert.Greater(t, two, 85.0)
	})
	folder := t.TempDir()
	whole := filepath.Join(folder, "whole")
	train := []string{"-n", "2", "--hook", "powersgd", "--every", "20", "--checkpoint"}
	run(t, binary, append(train, whole, "--steps", "60")...)
	t.Run("a run that goes on is bitwise the one that did not stop", func(t *testing.T) {
		stopped := filepath.Join(folder, "stopped")
		run(t, binary, append(train, stopped, "--steps", "40")...)
		run(t, binary, append(train, stopped, "--steps", "60")...)
		sameFile(t, whole, stopped)
	})
	t.Run("mpirun's ranks train as its own", func(t *testing.T) {
		if version, err := exec.Command("mpirun", "--version").Output(); err != nil || !bytes.Contains(version, []byte("Open MPI")) {
			require.Empty(t, os.Getenv("CI"), "CI has no mpirun: scripts/setup-mpirun.sh")
			t.Skip("no mpirun of Open MPI: apt-get install openmpi-bin")
		}
		trained := filepath.Join(folder, "mpirun")
		run(t, "mpirun", "--allow-run-as-root", "--bind-to", "none", "--oversubscribe", "-n", "2", "-x", "MASTER_PORT="+freePort(t),
			binary, "--hook", "powersgd", "--every", "20", "--checkpoint", trained, "--steps", "60")
		sameFile(t, whole, trained)
	})
	t.Run("srun's ranks train as its own", func(t *testing.T) {
		if os.Getenv("PYHOOK_SLURM") == "" {
			t.Skip("PYHOOK_SLURM=1 starts a Slurm; it needs root and: apt-get install slurm-wlm munge")
		}
		trained := filepath.Join(folder, "srun")
		run(t, filepath.Join("..", "..", "..", "tests", "launchers", "testdata", "one-host-slurm.sh"), "srun", "--nodes", "2", "--ntasks", "2",
			"--export", "ALL,MASTER_ADDR=127.0.0.1,MASTER_PORT="+freePort(t),
			binary, "--hook", "powersgd", "--every", "20", "--checkpoint", trained, "--steps", "60")
		sameFile(t, whole, trained)
	})
	t.Run("a rank that is killed under torchrun costs nothing but time", func(t *testing.T) {
		killed := filepath.Join(folder, "killed")
		underTorchrun(t, binary, killed)
		sameFile(t, whole, killed)
	})
}

func sameFile(t *testing.T, a, b string) {
	t.Helper()
	x, err := os.ReadFile(a)
	require.NoError(t, err)
	y, err := os.ReadFile(b)
	require.NoError(t, err)
	require.NotEmpty(t, x)
	assert.True(t, bytes.Equal(x, y), "the checkpoints differ")
}

func run(t *testing.T, binary string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), binary, args...)
	cmd.Env = append(os.Environ(), "GLOO_SOCKET_IFNAME=lo", "OMP_NUM_THREADS=1")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	return string(out)
}

// freePort is one that was free a moment ago.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", ":0")
	require.NoError(t, err)
	defer l.Close()
	return strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
}

func accuracy(t *testing.T, output string) float64 {
	t.Helper()
	m := regexp.MustCompile(`accuracy ([0-9.]+) %`).FindStringSubmatch(output)
	require.NotNil(t, m, output)
	percent, err := strconv.ParseFloat(m[1], 64)
	require.NoError(t, err)
	return percent
}

// underTorchrun trains as the whole run does, and kills rank 1 after the first checkpoint.
func underTorchrun(t *testing.T, binary, checkpoint string) {
	interpreter, _, err := cbridge.Discover(t.Context(), "", "torch")
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	// -r 1 -t 1 is what Debian 12's torchrun needs, and does no harm elsewhere.
	cmd := exec.CommandContext(ctx, interpreter.Executable, "-m", "torch.distributed.run", "-r", "1", "-t", "1", "--log_dir", t.TempDir(),
		"--standalone", "--nnodes", "1", "--nproc_per_node", "2", "--max_restarts", "1", "--monitor_interval", "0.2", "--no_python",
		binary, "--hook", "powersgd", "--every", "20", "--checkpoint", checkpoint, "--steps", "60")
	cmd.Env = append(os.Environ(), "GLOO_SOCKET_IFNAME=lo", "OMP_NUM_THREADS=1", "USE_LIBUV=0")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = 10 * time.Second
	require.NoError(t, cmd.Start())
	pid := waitFor(ctx, func() int {
		if _, err := os.Stat(checkpoint); err != nil {
			return 0
		}
		return rankOne(binary)
	})
	killed := pid > 0 && syscall.Kill(pid, syscall.SIGKILL) == nil
	err = cmd.Wait()
	if bytes.Contains(out.Bytes(), []byte("without libuv support")) {
		t.Skip("upstream: torchrun asks for libuv, which this build of torch lacks")
	}
	require.NoError(t, err, out.String())
	require.True(t, killed, "rank 1 was not killed:\n%s", out.String())
	assert.Contains(t, out.String(), "failed (exitcode: ") // of rank 1, or of rank 0, which may notice first
}

// waitFor calls find until it finds something, or ctx ends.
func waitFor(ctx context.Context, find func() int) int {
	for ctx.Err() == nil {
		if found := find(); found > 0 {
			return found
		}
		time.Sleep(5 * time.Millisecond)
	}
	return 0
}

// rankOne is the process id of rank 1 of a program, or 0.
func rankOne(binary string) int {
	environs, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, file := range environs {
		folder := filepath.Dir(file)
		if program, err := os.Readlink(filepath.Join(folder, "exe")); err != nil || program != binary {
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil || !strings.Contains("\x00"+string(text), "\x00RANK=1\x00") {
			continue
		}
		var pid int
		if _, err := fmt.Sscanf(filepath.Base(folder), "%d", &pid); err == nil {
			return pid
		}
	}
	return 0
}
