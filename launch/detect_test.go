package launch

import (
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestDetect(t *testing.T) {
	for _, test := range []struct {
		name string
		env  vars
		want World
	}{
		{
			name: "torchrun sets everything",
			env:  torchrunVars,
			want: World{Rank: 1, Size: 4, LocalRank: 1, LocalSize: 2, NodeRank: 0, Nodes: 2, MasterAddr: "10.0.0.1",
				MasterPort: 29500, Source: SourceEnv, RestartCount: 2, RunID: "job", ErrorFile: "error.json"},
		},
		{
			name: "a PyTorchJob pod has no local rank and is alone on its node",
			env: vars{"RANK": "2", "WORLD_SIZE": "3", "MASTER_ADDR": "job-master-0", "MASTER_PORT": "23456",
				"PET_NPROC_PER_NODE": "auto", "PET_NNODES": "3", "PET_NODE_RANK": "2"},
			want: World{Rank: 2, Size: 3, LocalSize: 1, NodeRank: 2, Nodes: 3, MasterAddr: "job-master-0",
				MasterPort: 23456, Source: SourceEnv},
		},
		{
			name: "a Trainer v2 pod with one process",
			env:  petVars.with(slurmVars),
			want: World{Rank: 1, Size: 2, LocalSize: 1, NodeRank: 1, Nodes: 2, MasterAddr: "job-node-0-0.job",
				MasterPort: 29400, Source: SourcePET},
		},
		{
			name: "a Trainer v2 pod whose processes have their local rank",
			env:  petVars.with(vars{"PET_NPROC_PER_NODE": "4", "LOCAL_RANK": "3", "PET_NNODES": "2:2", "PET_RDZV_ID": "x"}),
			want: World{Rank: 7, Size: 8, LocalRank: 3, LocalSize: 4, NodeRank: 1, Nodes: 2,
				MasterAddr: "job-node-0-0.job", MasterPort: 29400, Source: SourcePET, RunID: "x"},
		},
		{
			name: "srun's step counts and not the job",
			env:  slurmVars.with(openmpiVars.without("MASTER_ADDR", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE")),
			want: World{Rank: 5, Size: 7, LocalRank: 1, LocalSize: 2, NodeRank: 2, Nodes: 4, MasterAddr: "n007",
				MasterPort: 19567, Source: SourceSlurm, RestartCount: 1, RunID: "1234567"},
		},
		{
			name: "Slurm with a master given beside it",
			env:  slurmVars.with(vars{"MASTER_ADDR": "10.1.1.1", "SLURM_STEP_ID": "3"}),
			want: World{Rank: 5, Size: 7, LocalRank: 1, LocalSize: 2, NodeRank: 2, Nodes: 4, MasterAddr: "10.1.1.1",
				MasterPort: 19570, Source: SourceSlurm, RestartCount: 1, RunID: "1234567"},
		},
		{
			name: "srun's pmi2 plugin agrees with Slurm, which stays the family",
			env:  slurmVars.with(vars{"PMI_RANK": "5", "PMI_SIZE": "7"}),
			want: World{Rank: 5, Size: 7, LocalRank: 1, LocalSize: 2, NodeRank: 2, Nodes: 4, MasterAddr: "n007",
				MasterPort: 19567, Source: SourceSlurm, RestartCount: 1, RunID: "1234567"},
		},
		{
			name: "mpirun's daemon was started by srun, and its ranks are mpirun's",
			env:  openmpiVars.with(slurmVars).with(vars{"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "1"}),
			want: World{Rank: 3, Size: 4, LocalRank: 1, LocalSize: 2, NodeRank: 1, Nodes: 2, MasterAddr: "head",
				MasterPort: 29500, Source: SourceOpenMPI},
		},
		{
			name: "mpirun in a batch script",
			env:  openmpiVars.with(batchVars),
			want: World{Rank: 3, Size: 4, LocalRank: 1, LocalSize: 2, NodeRank: 1, Nodes: 2, MasterAddr: "head",
				MasterPort: 29500, Source: SourceOpenMPI},
		},
		{
			name: "Hydra on one machine needs no master",
			env:  hydraVars,
			want: World{Rank: 1, Size: 2, LocalRank: 1, LocalSize: 2, Nodes: 1, MasterAddr: "127.0.0.1",
				MasterPort: 29500, Source: SourcePMI},
		},
		{
			name: "Cray PALS spells the local rank its way",
			env:  vars{"PMI_RANK": "1", "PMI_SIZE": "2", "PMI_LOCAL_RANK": "1", "PMI_LOCAL_SIZE": "2"},
			want: World{Rank: 1, Size: 2, LocalRank: 1, LocalSize: 2, Nodes: 1, MasterAddr: "127.0.0.1",
				MasterPort: 29500, Source: SourcePMI},
		},
		{
			name: "MVAPICH2 is read whole even beside PMI",
			env: hydraVars.with(vars{"MV2_COMM_WORLD_RANK": "0", "MV2_COMM_WORLD_SIZE": "3", "MV2_COMM_WORLD_LOCAL_RANK": "0",
				"MV2_COMM_WORLD_LOCAL_SIZE": "3", "MASTER_PORT": "5"}),
			want: World{Rank: 0, Size: 3, LocalSize: 3, Nodes: 1, MasterAddr: "127.0.0.1", MasterPort: 5, Source: SourcePMI},
		},
		{
			name: "an IPv6 address in brackets, as in a URL",
			env:  torchrunVars.with(vars{"MASTER_ADDR": "[fd00::1]"}),
			want: World{Rank: 1, Size: 4, LocalRank: 1, LocalSize: 2, NodeRank: 0, Nodes: 2, MasterAddr: "fd00::1",
				MasterPort: 29500, Source: SourceEnv, RestartCount: 2, RunID: "job", ErrorFile: "error.json"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := Detect(Options{Getenv: test.env.getenv})
			require.NoError(t, err)
			assert.Equal(t, test.want, got)
		})
	}
}

func TestDetect_single(t *testing.T) {
	for _, test := range []struct {
		name string
		env  vars
		note string
	}{
		{"an empty environment", nil, ""},
		{"empty variables count as unset", vars{"RANK": "", "WORLD_SIZE": " "}, ""},
		{"a batch script is no task of srun, even with SLURM_NTASKS", batchVars, "not a task of srun"},
		{"a batch script without -n", batchVars.without("SLURM_NTASKS"), "not a task of srun"},
		{"salloc's shell", vars{"SLURM_JOB_ID": "1", "SLURM_NTASKS": "4", "SLURM_JOB_NODELIST": "n1"}, "not a task of srun"},
		{"a leftover master is not waited for", vars{"MASTER_ADDR": "10.9.9.9", "MASTER_PORT": "1"}, "ignored"},
		{"torchrun's options without a shape", vars{"PET_MAX_RESTARTS": "3"}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := Detect(Options{Getenv: test.env.getenv})
			require.NoError(t, err)
			assert.Equal(t, SourceSingle, got.Source)
			assert.Equal(t, []int{0, 1, 0, 1, 0, 1},
				[]int{got.Rank, got.Size, got.LocalRank, got.LocalSize, got.NodeRank, got.Nodes})
			assert.Equal(t, "127.0.0.1", got.MasterAddr)
			assert.Greater(t, got.MasterPort, 1023)
			if test.note == "" {
				assert.Empty(t, got.Note)
			}
			assert.Contains(t, got.String(), test.note)
		})
	}
}

func TestDetect_error(t *testing.T) {
	for _, test := range []struct {
		name     string
		env      vars
		source   Source
		variable string
		reason   string
	}{
		{name: "RANK without WORLD_SIZE", env: vars{"RANK": "0"}, source: SourceEnv, variable: "WORLD_SIZE", reason: "not set although RANK is"},
		{name: "WORLD_SIZE without RANK", env: vars{"WORLD_SIZE": "2"}, source: SourceEnv, variable: "RANK", reason: "not set although WORLD_SIZE is"},
		{name: "RANK alone in a Slurm task does not fall through", env: slurmVars.with(vars{"RANK": "0"}), source: SourceEnv, variable: "WORLD_SIZE", reason: "not set"},
		{name: "RANK not below WORLD_SIZE", env: torchrunVars.with(vars{"RANK": "4"}), source: SourceEnv, variable: "RANK", reason: "0..3"},
		{name: "a negative RANK", env: torchrunVars.with(vars{"RANK": "-1"}), source: SourceEnv, variable: "RANK", reason: "0..3"},
		{name: "a RANK that is no integer", env: torchrunVars.with(vars{"RANK": "one"}), source: SourceEnv, variable: "RANK", reason: "not an integer"},
		{name: "a WORLD_SIZE of 0", env: torchrunVars.with(vars{"WORLD_SIZE": "0"}), source: SourceEnv, variable: "WORLD_SIZE", reason: "at least 1"},
		{name: "a WORLD_SIZE beyond 32 bits", env: torchrunVars.with(vars{"WORLD_SIZE": "99999999999"}), source: SourceEnv, variable: "WORLD_SIZE", reason: "not an integer"},
		{name: "LOCAL_RANK without LOCAL_WORLD_SIZE", env: torchrunVars.without("LOCAL_WORLD_SIZE"), source: SourceEnv, variable: "LOCAL_WORLD_SIZE", reason: "not set although LOCAL_RANK is"},
		{name: "LOCAL_WORLD_SIZE without LOCAL_RANK", env: torchrunVars.without("LOCAL_RANK"), source: SourceEnv, variable: "LOCAL_RANK", reason: "not set"},
		{name: "LOCAL_RANK not below LOCAL_WORLD_SIZE", env: torchrunVars.with(vars{"LOCAL_RANK": "2"}), source: SourceEnv, variable: "LOCAL_RANK", reason: "0..1"},
		{name: "LOCAL_WORLD_SIZE above WORLD_SIZE", env: torchrunVars.with(vars{"LOCAL_WORLD_SIZE": "5"}), source: SourceEnv, variable: "LOCAL_WORLD_SIZE", reason: "1..4"},
		{name: "GROUP_RANK not below GROUP_WORLD_SIZE", env: torchrunVars.with(vars{"GROUP_RANK": "2"}), source: SourceEnv, variable: "GROUP_RANK", reason: "0..1"},
		{name: "no MASTER_ADDR", env: torchrunVars.without("MASTER_ADDR"), source: SourceEnv, variable: "MASTER_ADDR", reason: "not set"},
		{name: "no MASTER_PORT", env: torchrunVars.without("MASTER_PORT"), source: SourceEnv, variable: "MASTER_PORT", reason: "not set"},
		{name: "a port out of range", env: torchrunVars.with(vars{"MASTER_PORT": "65536"}), source: SourceEnv, variable: "MASTER_PORT", reason: "not a port"},
		{name: "port 0", env: torchrunVars.with(vars{"MASTER_PORT": "0"}), source: SourceEnv, variable: "MASTER_PORT", reason: "not a port"},
		{name: "a port that is no integer", env: torchrunVars.with(vars{"MASTER_PORT": "http"}), source: SourceEnv, variable: "MASTER_PORT", reason: "not an integer"},
		{name: "a port inside the address", env: torchrunVars.with(vars{"MASTER_ADDR": "host:29500"}), source: SourceEnv, variable: "MASTER_ADDR", reason: "has a port"},
		{name: "a URL for an address", env: torchrunVars.with(vars{"MASTER_ADDR": "tcp://host"}), source: SourceEnv, variable: "MASTER_ADDR", reason: "not a host name"},
		{name: "a bracket that is not closed", env: torchrunVars.with(vars{"MASTER_ADDR": "[::1"}), source: SourceEnv, variable: "MASTER_ADDR", reason: "not a host name"},
		{name: "a port of Kubernetes", env: torchrunVars.with(vars{"MASTER_PORT": "tcp://10.96.3.1:29500"}), source: SourceEnv, variable: "MASTER_PORT", reason: "not an integer"},
		{name: "a malformed restart count", env: torchrunVars.with(vars{"TORCHELASTIC_RESTART_COUNT": "x"}), source: SourceEnv, variable: "TORCHELASTIC_RESTART_COUNT", reason: "not an integer"},
		{name: "a PyTorchJob pod with several processes", env: torchrunVars.without("LOCAL_RANK", "LOCAL_WORLD_SIZE").with(vars{"PET_NPROC_PER_NODE": "4"}), source: SourceEnv, variable: "PET_NPROC_PER_NODE", reason: "several processes"},
		{name: "LOCAL_RANK alone", env: vars{"LOCAL_RANK": "1"}, source: SourceSingle, variable: "RANK", reason: "not set although LOCAL_RANK is 1"},

		{name: "an elastic range of nodes", env: petVars.with(vars{"PET_NNODES": "1:4"}), source: SourcePET, variable: "PET_NNODES", reason: "elastic range"},
		{name: "a malformed number of nodes", env: petVars.with(vars{"PET_NNODES": "many"}), source: SourcePET, variable: "PET_NNODES", reason: "not an integer"},
		{name: "no number of nodes", env: petVars.without("PET_NNODES"), source: SourcePET, variable: "PET_NNODES", reason: "not set although PET_NODE_RANK is"},
		{name: "no node rank among several nodes", env: petVars.without("PET_NODE_RANK"), source: SourcePET, variable: "PET_NODE_RANK", reason: "not set"},
		{name: "a node rank too high", env: petVars.with(vars{"PET_NODE_RANK": "2"}), source: SourcePET, variable: "PET_NODE_RANK", reason: "out of range"},
		{name: "several processes per node and a bare binary", env: petVars.with(vars{"PET_NPROC_PER_NODE": "2"}), source: SourcePET, variable: "PET_NPROC_PER_NODE", reason: "LOCAL_RANK is not set"},
		{name: "a number of processes that torchrun would determine", env: petVars.with(vars{"PET_NPROC_PER_NODE": "gpu"}), source: SourcePET, variable: "PET_NPROC_PER_NODE", reason: "only torchrun"},
		{name: "a rendezvous that only torchrun can join", env: petVars.without("PET_MASTER_ADDR").with(vars{"PET_RDZV_ENDPOINT": "h:1"}), source: SourcePET, variable: "PET_MASTER_ADDR", reason: "not set"},

		{name: "a task without its rank", env: slurmVars.without("SLURM_PROCID"), source: SourceSlurm, variable: "SLURM_PROCID", reason: "not set although"},
		{name: "a task without a count", env: slurmVars.without("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"), source: SourceSlurm, variable: "SLURM_NTASKS", reason: "not set although"},
		{name: "a task without its node", env: slurmVars.without("SLURM_NODEID"), source: SourceSlurm, variable: "SLURM_NODEID", reason: "not set although"},
		{name: "a task above the count", env: slurmVars.with(vars{"SLURM_PROCID": "7"}), source: SourceSlurm, variable: "SLURM_PROCID", reason: "0..6"},
		{name: "a malformed node list", env: slurmVars.with(vars{"SLURM_STEP_NODELIST": "n[1-"}), source: SourceSlurm, variable: "SLURM_STEP_NODELIST", reason: "not a list of nodes"},
		{name: "no node list", env: slurmVars.without("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST"), source: SourceSlurm, variable: "SLURM_JOB_NODELIST", reason: "not set"},
		{name: "no job id to make a port of", env: slurmVars.without("SLURM_JOB_ID"), source: SourceSlurm, variable: "SLURM_JOB_ID", reason: "not set"},
		{name: "a malformed list of tasks", env: slurmVars.with(vars{"SLURM_STEP_TASKS_PER_NODE": "2(x"}), source: SourceSlurm, variable: "SLURM_STEP_TASKS_PER_NODE", reason: "not a list"},
		{name: "a list of tasks that is too short", env: slurmVars.with(vars{"SLURM_STEP_TASKS_PER_NODE": "2"}), source: SourceSlurm, variable: "SLURM_STEP_TASKS_PER_NODE", reason: "no entry for node 2"},

		{name: "OpenMPI over machines without a master", env: openmpiVars.without("MASTER_ADDR"), source: SourceOpenMPI, variable: "MASTER_ADDR", reason: "not set"},
		{name: "OpenMPI without the size", env: openmpiVars.without("OMPI_COMM_WORLD_SIZE"), source: SourceOpenMPI, variable: "OMPI_COMM_WORLD_SIZE", reason: "not set although"},
		{name: "PMI without a local rank", env: hydraVars.without("MPI_LOCALRANKID"), source: SourcePMI, variable: "MPI_LOCALRANKID", reason: "not set"},
		{name: "MVAPICH2 by half does not borrow from PMI", env: hydraVars.with(vars{"MV2_COMM_WORLD_RANK": "0"}), source: SourcePMI, variable: "MV2_COMM_WORLD_SIZE", reason: "not set"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w, err := Detect(Options{Getenv: test.env.getenv})
			var e *Error
			require.ErrorAs(t, err, &e)
			assert.Equal(t, World{}, w)
			assert.Equal(t, test.source, e.Source)
			assert.Equal(t, test.variable, e.Variable)
			assert.Contains(t, e.Reason, test.reason)
			assert.NotEmpty(t, e.Hint)
		})
	}
}

func TestError_Error(t *testing.T) {
	t.Run("one line that names the fix", func(t *testing.T) {
		_, err := Detect(Options{Getenv: torchrunVars.with(vars{"RANK": "4"}).getenv})
		assert.EqualError(t, err, `launch: cannot tell the rank from torchrun's RANK/WORLD_SIZE: RANK="4" is not in 0..3, as WORLD_SIZE is 4 (ranks count from 0)`)
		_, err = Detect(Options{Getenv: vars{"RANK": "0"}.getenv})
		assert.EqualError(t, err, `launch: cannot tell the rank from torchrun's RANK/WORLD_SIZE: WORLD_SIZE is not set although RANK is (RANK and WORLD_SIZE go together: set both, or start with torchrun)`)
	})
}

func TestDetect_slurmWithoutTasksPerNode(t *testing.T) {
	base := slurmVars.without("SLURM_STEP_TASKS_PER_NODE").with(vars{"SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "8"})
	for _, test := range []struct {
		name  string
		env   vars
		local int
	}{
		{"tasks spread evenly", base, 2},
		{"--ntasks-per-node", base.with(vars{"SLURM_NTASKS_PER_NODE": "3"}), 3},
		{"one node", base.with(vars{"SLURM_STEP_NUM_NODES": "1", "SLURM_NODEID": "0"}), 8},
	} {
		t.Run(test.name, func(t *testing.T) {
			w, err := Detect(Options{Getenv: test.env.getenv})
			require.NoError(t, err)
			assert.Equal(t, test.local, w.LocalSize)
		})
	}
	t.Run("tasks that do not spread evenly are refused", func(t *testing.T) {
		_, err := Detect(Options{Getenv: base.with(vars{"SLURM_STEP_NUM_TASKS": "7"}).getenv})
		assert.ErrorContains(t, err, "do not spread evenly")
	})
}

func ExampleDetect() {
	env := map[string]string{
		"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2",
		"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500",
	}
	world, err := Detect(Options{Getenv: func(name string) (string, bool) {
		value, ok := env[name]
		return value, ok
	}})
	fmt.Println(world, err)
	// Output: rank 1 of 4 (local 1 of 2) from torchrun's RANK/WORLD_SIZE, master 10.0.0.1:29500 <nil>
}

func ExampleError() {
	_, err := Detect(Options{Getenv: func(name string) (string, bool) { return "0", name == "RANK" }})
	var e *Error
	if errors.As(err, &e) {
		fmt.Println(e.Variable, e.Reason)
		fmt.Println("hint:", e.Hint)
	}
	// Output:
	// WORLD_SIZE is not set although RANK is
	// hint: RANK and WORLD_SIZE go together: set both, or start with torchrun
}

func TestDetect_kubernetesServicePort(t *testing.T) {
	for name, service := range map[string]string{"MASTER_PORT": "master", "PET_MASTER_PORT": "pet_master"} {
		t.Run(name, func(t *testing.T) {
			env := petVars.without("PET_MASTER_PORT").with(vars{name: "tcp://10.96.3.1:29500"})
			_, err := Detect(Options{Getenv: env.getenv})
			var e *Error
			require.ErrorAs(t, err, &e)
			assert.Equal(t, name, e.Variable)
			assert.Contains(t, e.Hint, "Kubernetes sets it so for a Service that is called "+service+":")
			assert.Contains(t, e.Hint, "enableServiceLinks: false")
		})
	}
}
