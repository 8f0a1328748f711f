package launchers_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// deployed runs a command of deploy/ in a folder of the test's and returns its
// stdout and stderr. It ends all processes that the command started.
func deployed(t *testing.T, folder string, env []string, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir, cmd.Env = folder, append(append(environment(), "PYHOOK="+binary), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 10 * time.Second
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	return out.String(), errs.String(), err
}

// absolute returns the absolute path of a file of the clone.
func absolute(t *testing.T, path string) string {
	t.Helper()
	whole, err := filepath.Abs(filepath.Join("..", "..", path))
	require.NoError(t, err)
	return whole
}

// lacks skips a test that needs a program. In CI, which has it installed by
// scripts/setup-mpirun.sh, that is a failure.
func lacks(t *testing.T, program, packages string) {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("CI has no %s: apt-get install %s", program, packages)
		}
		t.Skipf("no %s: apt-get install %s", program, packages)
	}
}

func TestOpenMPI(t *testing.T) {
	// deploy/mpi with a real mpirun.
	t.Run("mpirun runs the deployed command", func(t *testing.T) {
		lacks(t, "mpirun", "openmpi-bin")
		version, err := exec.Command("mpirun", "--version").Output()
		require.NoError(t, err)
		if !bytes.Contains(version, []byte("Open MPI")) {
			t.Skip("this mpirun is not Open MPI's")
		}
		folder := t.TempDir()
		hosts := filepath.Join(folder, "hosts")
		require.NoError(t, os.WriteFile(hosts, []byte("# one machine\nlocalhost slots=2\n"), 0o644))
		env := []string{"MASTER_PORT=" + strconv.Itoa(port(t)), "OMPI_ALLOW_RUN_AS_ROOT=1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1"}
		args := append([]string{absolute(t, "deploy/mpi/train.sh"), hosts}, arguments(filepath.Join(folder, "checkpoint"))[1:]...)
		stdout, stderr, err := deployed(t, folder, env, args...)
		require.NoError(t, err, "%s", stderr)
		got := parsed(t, stdout)
		assert.Equal(t, report{"openmpi", 0, 2, 22, true, got.WeightsSHA}, got)
		assert.Contains(t, stderr, "rank 0 of 2 (local 0 of 2) from OpenMPI's OMPI_COMM_WORLD_*, master localhost:")
	})
}

func TestSlurm(t *testing.T) {
	// deploy/slurm, by sbatch of a real Slurm that the script below starts: two nodes, both this
	// machine, two ranks each.
	t.Run("sbatch runs the deployed script", func(t *testing.T) {
		if os.Getenv("PYHOOK_SLURM") == "" {
			t.Skip("PYHOOK_SLURM=1 starts a Slurm; it needs root and: apt-get install slurm-wlm munge")
		}
		folder := t.TempDir()
		stdout, stderr, err := deployed(t, folder, nil, absolute(t, "tests/launchers/testdata/one-host-slurm.sh"),
			"sbatch", "--wait", absolute(t, "deploy/slurm/train.sbatch"), "--hook", "powersgd", "--epochs", "1", "--json")
		logs, _ := filepath.Glob(filepath.Join(folder, "pyhook-*.out"))
		require.Len(t, logs, 1, "%s%s", stdout, stderr)
		text, readErr := os.ReadFile(logs[0])
		require.NoError(t, readErr)
		require.NoError(t, err, "%s%s%s", stdout, stderr, text)
		got := parsed(t, string(text))
		assert.Equal(t, report{"slurm", 0, 4, 22, true, got.WeightsSHA}, got)
		assert.Contains(t, string(text), "rank 0 of 4 (local 0 of 2) from Slurm's SLURM_PROCID/SLURM_NTASKS, master 127.0.0.1:15")
		checkpoints, _ := filepath.Glob(filepath.Join(folder, "pyhook-*.ckpt*"))
		assert.NotEmpty(t, checkpoints)
	})
}
