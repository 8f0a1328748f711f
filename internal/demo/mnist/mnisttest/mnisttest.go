// Package mnisttest tests an adapter's example on MNIST as its users run it.
package mnisttest

import (
	"bytes"
	"context"
	"image/png"
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
	"pyhook/internal/testutil"
)

// Run builds the program in the test's folder and tests it.
func Run(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "mnist")
	out, err := exec.CommandContext(t.Context(), "go", "build", "-o", binary, ".").CombinedOutput()
	require.NoError(t, err, string(out))

	t.Run("2 ranks of 32 learn what 1 of 64 learns", func(t *testing.T) {
		plot := filepath.Join(t.TempDir(), "made", "mnist.png")
		two := accuracy(t, run(t, binary, "-n", "2", "--steps", "300", "--plot", plot))
		file, err := os.Open(plot)
		require.NoError(t, err)
		defer file.Close()
		_, err = png.Decode(file)
		assert.NoError(t, err)
		one := accuracy(t, run(t, binary, "--batch", "64", "--hook", "none", "--steps", "300"))
		assert.InDelta(t, one, two, 0.5)
		assert.Greater(t, two, 85.0)
	})
	folder := t.TempDir()
	whole := filepath.Join(folder, "whole")
	train := []string{"-n", "2", "--hook", "powersgd", "--every", "20", "--checkpoint"}
	run(t, binary, append(train, whole, "--steps", "60")...)
	t.Run("a run that goes on after SIGTERM is bitwise the one that was not stopped", func(t *testing.T) {
		stopped := filepath.Join(folder, "stopped")
		stop(t, binary, stopped, append(train, stopped, "--steps", "60")...)
		run(t, binary, append(train, stopped, "--steps", "60")...)
		sameFile(t, whole, stopped)
		run(t, binary, append(train, stopped, "--steps", "60")...) // which does no step
		sameFile(t, whole, stopped)
	})
	t.Run("flags that nothing can be trained with", func(t *testing.T) {
		out, err := exec.CommandContext(t.Context(), binary, "-n", "2", "--every", "0").CombinedOutput()
		var exit *exec.ExitError
		require.ErrorAs(t, err, &exit)
		assert.Equal(t, 2, exit.ExitCode())
		assert.Equal(t, "--every must be 1 or more\n", string(out))
	})
	t.Run("mpirun's ranks train as its own", func(t *testing.T) {
		if version, err := exec.Command("mpirun", "--version").Output(); err != nil || !bytes.Contains(version, []byte("Open MPI")) {
			require.Empty(t, os.Getenv("CI"), "CI has no mpirun: scripts/setup-mpirun.sh")
			t.Skip("no mpirun of Open MPI: apt-get install openmpi-bin")
		}
		trained := filepath.Join(folder, "mpirun")
		run(t, "mpirun", "--allow-run-as-root", "--bind-to", "none", "--oversubscribe", "-n", "2", "-x", "MASTER_PORT="+testutil.FreePort(t),
			binary, "--hook", "powersgd", "--every", "20", "--checkpoint", trained, "--steps", "60")
		sameFile(t, whole, trained)
	})
	t.Run("srun's ranks train as its own", func(t *testing.T) {
		if os.Getenv("PYHOOK_SLURM") == "" {
			t.Skip("PYHOOK_SLURM=1 starts a Slurm; it needs root and: apt-get install slurm-wlm munge")
		}
		trained := filepath.Join(folder, "srun")
		run(t, filepath.Join("..", "..", "..", "tests", "launchers", "testdata", "one-host-slurm.sh"), "srun", "--nodes", "2", "--ntasks", "2",
			"--export", "ALL,MASTER_ADDR=127.0.0.1,MASTER_PORT="+testutil.FreePort(t),
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

// stop runs the program and stops it by SIGTERM when there is a checkpoint.
func stop(t *testing.T, binary, checkpoint string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Env = append(os.Environ(), "GLOO_SOCKET_IFNAME=lo", "OMP_NUM_THREADS=1")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = 10 * time.Second
	require.NoError(t, cmd.Start())
	waitFor(ctx, func() bool { return exists(checkpoint) })
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	var exit *exec.ExitError
	require.ErrorAs(t, cmd.Wait(), &exit, out.String())
	assert.Equal(t, 143, exit.ExitCode(), out.String())
	assert.Contains(t, out.String(), "stopped by SIGTERM")
	assert.Empty(t, processes(binary, ""), "ranks are left")
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
	waitFor(ctx, func() bool { return exists(checkpoint) })
	rankOne := processes(binary, "RANK=1")
	killed := len(rankOne) == 1 && syscall.Kill(rankOne[0], syscall.SIGKILL) == nil
	err = cmd.Wait()
	if bytes.Contains(out.Bytes(), []byte("without libuv support")) {
		t.Skip("upstream: torchrun asks for libuv, which this build of torch lacks")
	}
	require.NoError(t, err, out.String())
	require.True(t, killed, "rank 1 was not killed:\n%s", out.String())
	assert.Contains(t, out.String(), "failed (exitcode: ") // of rank 1, or of rank 0, which may notice first
}

// waitFor waits until something is so, or ctx ends.
func waitFor(ctx context.Context, is func() bool) {
	for ctx.Err() == nil && !is() {
		time.Sleep(5 * time.Millisecond)
	}
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

// processes are the ids of a program's, those that have a variable in their environment.
func processes(binary, variable string) (list []int) {
	environs, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, file := range environs {
		folder := filepath.Dir(file)
		if program, err := os.Readlink(filepath.Join(folder, "exe")); err != nil || program != binary {
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil || variable != "" && !strings.Contains("\x00"+string(text), "\x00"+variable+"\x00") {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(folder)); err == nil {
			list = append(list, pid)
		}
	}
	return list
}
