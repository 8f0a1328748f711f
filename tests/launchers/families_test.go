package launchers_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/internal/freeport"
)

// family is what a launcher sets for each of two ranks.
type family struct {
	source string // as the report names it
	origin string // as rank 0 prints it
	env    func(t *testing.T, rank int) []string
}

// families replay what the launchers really set: Open MPI 4.1, MPICH 4.0 (Hydra)
// and Slurm 22.05 were run for it. MASTER_PORT is set where the launcher sets no
// port, so that two tests on one machine have two ports.
var families = map[string]family{
	"plain variables": {"env", "from torchrun's RANK/WORLD_SIZE", func(t *testing.T, rank int) []string {
		return variables("RANK", rank, "WORLD_SIZE", 2, "LOCAL_RANK", rank, "LOCAL_WORLD_SIZE", 2, "MASTER_ADDR", "127.0.0.1", "MASTER_PORT", port(t))
	}},
	"PyTorchJob pods": {"env", "from torchrun's RANK/WORLD_SIZE", func(t *testing.T, rank int) []string {
		return variables("RANK", rank, "WORLD_SIZE", 2, "MASTER_ADDR", "127.0.0.1", "MASTER_PORT", port(t),
			"PET_NPROC_PER_NODE", 1, "PET_NNODES", 2, "PET_NODE_RANK", rank)
	}},
	"Kubeflow Trainer pods": {"pet", "from torchrun's PET_* arguments", func(t *testing.T, rank int) []string {
		return variables("PET_NNODES", 2, "PET_NPROC_PER_NODE", 1, "PET_NODE_RANK", rank, "PET_MASTER_ADDR", "127.0.0.1", "PET_MASTER_PORT", port(t))
	}},
	"srun on one machine": {"slurm", "from Slurm's SLURM_PROCID/SLURM_NTASKS", func(t *testing.T, rank int) []string {
		return slurm(t, rank, "localhost", 1, "2")
	}},
	"srun on two machines": {"slurm", "from Slurm's SLURM_PROCID/SLURM_NTASKS", func(t *testing.T, rank int) []string {
		return slurm(t, rank, "127.0.0.[1-2]", 2, "1(x2)") // both are this one
	}},
	"Open MPI's mpirun": {"openmpi", "from OpenMPI's OMPI_COMM_WORLD_*", func(t *testing.T, rank int) []string {
		return variables("OMPI_COMM_WORLD_RANK", rank, "OMPI_COMM_WORLD_SIZE", 2, "OMPI_COMM_WORLD_LOCAL_RANK", rank,
			"OMPI_COMM_WORLD_LOCAL_SIZE", 2, "OMPI_COMM_WORLD_NODE_RANK", rank, "OMPI_APP_CTX_NUM_PROCS", 2,
			"PMIX_RANK", rank, "PMIX_NAMESPACE", 128516097, "MASTER_PORT", port(t))
	}},
	"MPICH's mpirun": {"pmi", "from the MPI launcher's PMI_*/MV2_*", func(t *testing.T, rank int) []string {
		return variables("PMI_RANK", rank, "PMI_SIZE", 2, "PMI_FD", 8+rank, "MPI_LOCALRANKID", rank, "MPI_LOCALNRANKS", 2, "MASTER_PORT", port(t))
	}},
}

// slurm returns what srun sets, without paths and names of that machine.
func slurm(t *testing.T, rank int, nodelist string, nodes int, tasks string) []string {
	node, local := 0, rank
	if nodes > 1 {
		node, local = rank, 0
	}
	env := []any{"SLURM_PROCID", rank, "SLURM_LOCALID", local, "SLURM_NODEID", node, "SLURM_GTIDS", "0,1", "SLURM_TASK_PID", 29070 + rank}
	for _, prefix := range []string{"SLURM_", "SLURM_JOB_", "SLURM_STEP_"} {
		env = append(env, prefix+"NODELIST", nodelist)
	}
	env = append(env, "SLURM_NNODES", nodes, "SLURM_JOB_NUM_NODES", nodes, "SLURM_STEP_NUM_NODES", nodes,
		"SLURM_NTASKS", 2, "SLURM_NPROCS", 2, "SLURM_STEP_NUM_TASKS", 2, "SLURM_TASKS_PER_NODE", tasks, "SLURM_STEP_TASKS_PER_NODE", tasks,
		"SLURM_STEP_ID", 0, "SLURM_STEPID", 0, "SLURM_CPUS_ON_NODE", 2, "SLURM_JOB_CPUS_PER_NODE", "2", "SLURM_JOB_NAME", "train")
	job := slurmJob(t)
	return variables(append(env, "SLURM_JOB_ID", job, "SLURM_JOBID", job)...)
}

// variables makes NAME=value of pairs.
func variables(pairs ...any) []string {
	var env []string
	for i := 0; i < len(pairs); i += 2 {
		env = append(env, fmt.Sprintf("%s=%v", pairs[i], pairs[i+1]))
	}
	return env
}

var (
	portsMu sync.Mutex
	ports   = map[string]int{}
)

// once returns one number for all ranks of a test.
func once(t *testing.T, find func() int) int {
	portsMu.Lock()
	defer portsMu.Unlock()
	if ports[t.Name()] == 0 {
		ports[t.Name()] = find()
	}
	return ports[t.Name()]
}

func port(t *testing.T) int {
	return once(t, func() int {
		found, err := freeport.Find()
		require.NoError(t, err)
		return found
	})
}

// slurmJob returns a job's number whose port is free: 15000, the last four digits of that
// number, and the step's.
func slurmJob(t *testing.T) int {
	return once(t, func() int {
		for job := 4_711_000 + time.Now().Nanosecond()%9000; ; job++ {
			if l, err := net.Listen("tcp", ":"+strconv.Itoa(15000+job%10000)); err == nil {
				l.Close()
				return job
			}
		}
	})
}

// report is a part of trainer.Report.
type report struct {
	Launcher         string `json:"launcher"`
	Rank             int    `json:"rank"`
	Size             int    `json:"world_size"`
	Steps            int    `json:"steps"`
	WeightsIdentical bool   `json:"weights_identical"`
	WeightsSHA       string `json:"weights_sha256"`
}

// arguments train for 22 steps with a hook that has a state on every rank.
func arguments(checkpoint string) []string {
	return []string{"train", "--hook", "powersgd", "--epochs", "1", "--checkpoint", checkpoint, "--json"}
}

// output is what a process wrote.
type output struct{ stdout, stderr bytes.Buffer }

// command runs pyhook to its end.
func command(t *testing.T, env []string, args ...string) (*output, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Env = append(environment(), env...)
	s := &output{}
	cmd.Stdout, cmd.Stderr = &s.stdout, &s.stderr
	return s, cmd.Run()
}

// trained starts two ranks of a family and returns what each wrote.
func trained(t *testing.T, f family, checkpoint string) [2]*output {
	t.Helper()
	var outputs [2]*output
	var failed [2]error
	var group sync.WaitGroup
	for rank := range 2 {
		env := f.env(t, rank)
		group.Go(func() { outputs[rank], failed[rank] = command(t, env, arguments(checkpoint)...) })
	}
	group.Wait()
	for rank, err := range failed {
		require.NoError(t, err, "rank %d: %s", rank, outputs[rank].stderr.String())
	}
	return outputs
}

// torchrunPrefix is what torchrun puts before a rank's lines.
var torchrunPrefix = regexp.MustCompile(`(?m)^\[default0\]: ?`)

func parsed(t *testing.T, stdout string) report {
	t.Helper()
	begin, end := regexp.MustCompile(`(?m)^\{`).FindStringIndex(stdout), regexp.MustCompile(`(?m)^\}`).FindStringIndex(stdout)
	require.NotNil(t, begin, "%s", stdout)
	require.NotNil(t, end, "%s", stdout)
	var r report
	require.NoError(t, json.Unmarshal([]byte(stdout[begin[0]:end[1]]), &r), "%s", stdout)
	return r
}

func TestLaunchers(t *testing.T) {
	folder := t.TempDir()
	reference := filepath.Join(folder, "reference")
	s, err := command(t, nil, append(arguments(reference), "-n", "2")...)
	require.NoError(t, err, "%s", s.stderr.String())
	want := parsed(t, s.stdout.String())
	assert.Equal(t, report{"env", 0, 2, 22, true, want.WeightsSHA}, want)
	alike := func(t *testing.T, checkpoint string, source string, got report) {
		t.Helper()
		assert.Equal(t, report{source, 0, 2, 22, true, want.WeightsSHA}, got)
		for _, part := range []string{"", ".step22.hook0", ".step22.hook1"} {
			assert.Equal(t, digest(t, reference+part), digest(t, checkpoint+part), "the checkpoint%s", part)
		}
	}
	for name, f := range families {
		t.Run(name, func(t *testing.T) {
			checkpoint := filepath.Join(t.TempDir(), "checkpoint")
			outputs := trained(t, f, checkpoint)
			alike(t, checkpoint, f.source, parsed(t, outputs[0].stdout.String()))
			assert.Regexp(t, `(?m)^rank 0 of 2 \(local 0 of [12]\) `+regexp.QuoteMeta(f.origin)+", master ", outputs[0].stderr.String())
			assert.Empty(t, outputs[1].stdout.String(), "rank 0 prints for all")
		})
	}
	t.Run("torchrun", func(t *testing.T) {
		checkpoint := filepath.Join(t.TempDir(), "checkpoint")
		job := start(t, arguments(checkpoint)...)
		job.wait(t)
		alike(t, checkpoint, "env", parsed(t, job.output()))
		assert.Regexp(t, `rank 0 of 2 \(local 0 of 2\) from torchrun's RANK/WORLD_SIZE, master `, job.output())
	})
	t.Run("torchrun on two machines", func(t *testing.T) {
		checkpoint := filepath.Join(t.TempDir(), "checkpoint")
		var jobs [2]*torchrun
		options := "--nnodes 2 --nproc_per_node 1 --master_addr 127.0.0.1 --master_port " + strconv.Itoa(port(t)) + " --node_rank "
		for i := range jobs {
			jobs[i] = agent(t, options+strconv.Itoa(i), arguments(checkpoint)...)
		}
		for _, job := range jobs {
			job.wait(t)
		}
		alike(t, checkpoint, "env", parsed(t, jobs[0].output()))
		assert.Regexp(t, `rank 0 of 2 \(local 0 of 1\) from torchrun's RANK/WORLD_SIZE, master 127\.0\.0\.1:`, jobs[0].output())
	})
}
