package launchers_test

import (
	"errors"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestRefused has environments that do not make a job. Each is an error before Python starts, and
// neither a world of one nor a wait for ranks that nobody starts.
func TestRefused(t *testing.T) {
	step := variables("SLURM_JOB_ID", 7, "SLURM_STEP_ID", 0, "SLURM_STEP_NUM_TASKS", 2, "SLURM_STEP_NUM_NODES", 1, "SLURM_LOCALID", 0)
	for name, test := range map[string]struct {
		env  []string
		want string
	}{
		"a rank without a world": {variables("RANK", 0), "RANK/WORLD_SIZE: WORLD_SIZE is not set although RANK is"},
		"nowhere to meet":        {variables("RANK", 0, "WORLD_SIZE", 2), "MASTER_ADDR is not set although RANK is"},
		"no port": {variables("RANK", 0, "WORLD_SIZE", 2, "MASTER_ADDR", "127.0.0.1"),
			"MASTER_PORT is not set although RANK is"},
		"a rank outside its world": {variables("RANK", 2, "WORLD_SIZE", 2, "MASTER_ADDR", "127.0.0.1", "MASTER_PORT", 29500),
			`RANK="2" is not in 0..1, as WORLD_SIZE is 2`},
		"no number": {variables("RANK", "one", "WORLD_SIZE", 2), `RANK="one" is not an integer`},
		"a local rank outside its machine": {variables("RANK", 1, "WORLD_SIZE", 2, "LOCAL_RANK", 1, "LOCAL_WORLD_SIZE", 1,
			"MASTER_ADDR", "127.0.0.1", "MASTER_PORT", 29500), `LOCAL_RANK="1" is not in 0..0, as LOCAL_WORLD_SIZE is 1`},
		"several processes in a PyTorchJob pod": {variables("RANK", 0, "WORLD_SIZE", 4, "MASTER_ADDR", "127.0.0.1", "MASTER_PORT", 29500,
			"PET_NPROC_PER_NODE", 2), `PET_NPROC_PER_NODE="2" means several processes in this pod`},
		"an elastic number of pods":       {variables("PET_NNODES", "1:4", "PET_NODE_RANK", 0), `PET_NNODES="1:4" is an elastic range`},
		"a step without its task":         {step, "SLURM_PROCID is not set although SLURM_STEP_NUM_TASKS is"},
		"a step without its machines":     {append(variables("SLURM_PROCID", 0), step...), "SLURM_JOB_NODELIST is not set"},
		"mpirun's rank without its world": {variables("OMPI_COMM_WORLD_RANK", 0), "OMPI_COMM_WORLD_SIZE is not set although OMPI_COMM_WORLD_RANK is"},
		"mpirun on two machines": {variables("OMPI_COMM_WORLD_RANK", 0, "OMPI_COMM_WORLD_SIZE", 2, "OMPI_COMM_WORLD_LOCAL_RANK", 0,
			"OMPI_COMM_WORLD_LOCAL_SIZE", 1), "MASTER_ADDR is not set although OMPI_COMM_WORLD_SIZE is 2"},
		"no local rank": {variables("PMI_RANK", 0, "PMI_SIZE", 2), "MPI_LOCALRANKID is not set although PMI_RANK is"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := command(t, test.env, arguments(filepath.Join(t.TempDir(), "checkpoint"))...)
			var exit *exec.ExitError
			require.True(t, errors.As(err, &exit), "%v", err)
			assert.Equal(t, 2, exit.ExitCode())
			assert.Contains(t, s.stderr.String(), "error: launch: cannot tell the rank from ")
			assert.Contains(t, s.stderr.String(), test.want)
			assert.Empty(t, s.stdout.String())
		})
	}
}

func TestRefused_ranks(t *testing.T) {
	t.Run("-n inside a launcher", func(t *testing.T) {
		s, err := command(t, families["plain variables"].env(t, 0), "train", "-n", "2")
		require.Error(t, err)
		assert.Contains(t, s.stderr.String(), "this is rank 0 of 2 (local 0 of 2) from torchrun's RANK/WORLD_SIZE")
		assert.Contains(t, s.stderr.String(), "-n is for starting ranks without a launcher")
	})
	// replays what sbatch sets for the script.
	t.Run("a batch script of Slurm gets a note about srun", func(t *testing.T) {
		env := variables("SLURM_JOB_ID", 7, "SLURM_JOBID", 7, "SLURM_PROCID", 0, "SLURM_LOCALID", 0, "SLURM_NODEID", 0, "SLURM_NTASKS", 2,
			"SLURM_NPROCS", 2, "SLURM_NNODES", 1, "SLURM_JOB_NUM_NODES", 1, "SLURM_NODELIST", "localhost", "SLURM_JOB_NODELIST", "localhost",
			"SLURM_TASKS_PER_NODE", 2, "SLURM_GTIDS", 0)
		s, err := command(t, env, "train", "-n", "1", "--epochs", "1", "--hook", "go:allreduce", "--json")
		require.NoError(t, err, "%s", s.stderr.String())
		assert.Contains(t, s.stderr.String(), "note: this is a shell of a Slurm job and not a task of srun")
		assert.Equal(t, 1, parsed(t, s.stdout.String()).Size)
	})
}
