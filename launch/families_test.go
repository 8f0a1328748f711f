package launch

import (
	"maps"
	"os"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

type vars map[string]string

func (v vars) getenv(name string) (string, bool) {
	value, ok := v[name]
	return value, ok
}

func (v vars) with(more vars) vars {
	merged := maps.Clone(v)
	maps.Copy(merged, more)
	return merged
}

func (v vars) without(names ...string) vars {
	rest := maps.Clone(v)
	for _, n := range names {
		delete(rest, n)
	}
	return rest
}

var (
	torchrunVars = vars{
		"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2",
		"GROUP_RANK": "0", "GROUP_WORLD_SIZE": "2", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500",
		"TORCHELASTIC_RESTART_COUNT": "2", "TORCHELASTIC_RUN_ID": "job", "TORCHELASTIC_ERROR_FILE": "error.json",
	}
	petVars = vars{
		"PET_NNODES": "2", "PET_NODE_RANK": "1", "PET_NPROC_PER_NODE": "1",
		"PET_MASTER_ADDR": "job-node-0-0.job", "PET_MASTER_PORT": "29400",
	}
	slurmVars = vars{
		"SLURM_JOB_ID": "1234567", "SLURM_STEP_ID": "0", "SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_NODEID": "2",
		"SLURM_NTASKS": "7", "SLURM_STEP_NUM_TASKS": "7", "SLURM_STEP_NUM_NODES": "4", "SLURM_JOB_NUM_NODES": "9",
		"SLURM_STEP_TASKS_PER_NODE": "2(x3),1", "SLURM_STEP_NODELIST": "n[007-009],m2", "SLURM_JOB_NODELIST": "a[1-9]",
		"SLURM_RESTART_COUNT": "1",
	}
	batchVars = vars{
		"SLURM_JOB_ID": "1234567", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0",
		"SLURM_NTASKS": "7", "SLURM_JOB_NUM_NODES": "4", "SLURM_JOB_NODELIST": "a[1-4]", "SLURM_TASKS_PER_NODE": "2(x3),1",
	}
	openmpiVars = vars{
		"OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_RANK": "1",
		"OMPI_COMM_WORLD_LOCAL_SIZE": "2", "OMPI_COMM_WORLD_NODE_RANK": "1", "MASTER_ADDR": "head",
	}
	hydraVars = vars{"PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"}
)

// samples has a process of each family, as its launcher starts it.
var samples = map[Source]Options{
	SourceEnv:     {Getenv: torchrunVars.getenv},
	SourcePET:     {Getenv: petVars.getenv},
	SourceSlurm:   {Getenv: slurmVars.getenv},
	SourceOpenMPI: {Getenv: openmpiVars.getenv},
	SourcePMI:     {Getenv: hydraVars.getenv},
	SourceSingle:  {Getenv: batchVars.getenv},
}

// sampleVars are the environments that the fuzz targets begin with. The order is that of their
// corpus: new ones go to the end.
var sampleVars = []vars{nil, torchrunVars, petVars, slurmVars, batchVars, openmpiVars, hydraVars}

// TestFamilies tells who adds a family what is missing: its parts, its sample, its line in the
// package comment.
func TestFamilies(t *testing.T) {
	comment, err := os.ReadFile("doc.go")
	require.NoError(t, err)
	seen := map[Source]bool{}
	for _, f := range families {
		t.Run(string(f.source)+" has all its parts and is found", func(t *testing.T) {
			assert.False(t, seen[f.source], "two families have one name")
			seen[f.source] = true
			assert.NotEmpty(t, f.origin)
			assert.NotNil(t, f.claims)
			assert.NotNil(t, f.read)
			assert.NotNil(t, f.master)
			assert.Contains(t, string(comment), "("+string(f.source)+")", "doc.go lists the family")
			sample, ok := samples[f.source]
			require.True(t, ok, "samples has a process of it")
			if sample.Getenv == nil {
				sample.Getenv = vars{}.getenv
			}
			w, err := Detect(sample)
			require.NoError(t, err)
			assert.Equal(t, f.source, w.Source)
			assert.Contains(t, w.String(), " from "+f.origin+", master ")
			assert.Contains(t, (&Error{Source: f.source}).Error(), "the rank from "+f.origin+":")
		})
	}
	assert.Len(t, samples, len(families))
}

// flux is a launcher that launch does not know.
var flux = family{
	source: "flux", origin: "Flux's FLUX_TASK_RANK", claims: claimsByRankAndSize(fluxRankAndSize), rankAndSize: fluxRankAndSize,
	read: func(r *reader) World {
		r.names = fieldNames{rank: "FLUX_TASK_RANK", worldSize: "FLUX_JOB_SIZE", localRank: "FLUX_TASK_LOCAL_ID", localWorldSize: "FLUX_LOCAL_SIZE"}
		w := r.explicitRanks("flux run sets it")
		w.deriveNodes()
		return w
	},
	masterAddr: "FLUX_HEAD", master: masterOfMPI,
}

var (
	fluxRankAndSize = [][2]string{{"FLUX_TASK_RANK", "FLUX_JOB_SIZE"}}
	fluxVars        = vars{"FLUX_TASK_RANK": "5", "FLUX_JOB_SIZE": "7", "FLUX_HEAD": "f0"}
)

func TestFamilies_add(t *testing.T) {
	first, last := append([]family{flux}, families...), slices.Insert(slices.Clone(families), len(families)-1, flux)
	for _, test := range []struct {
		name     string
		families []family
		env      vars
		want     Source
		addr     string
	}{
		{"an entry in the table is enough", last, fluxVars, "flux", "f0"},
		{"its own variable for the address wins over MASTER_ADDR", last, fluxVars.with(vars{"MASTER_ADDR": "m"}), "flux", "f0"},
		{"MASTER_ADDR is used without it", last, fluxVars.without("FLUX_HEAD").with(vars{"MASTER_ADDR": "m"}), "flux", "m"},
		{"the earlier entry wins", first, fluxVars.with(torchrunVars), "flux", "f0"},
		{"a later entry loses", last, fluxVars.with(torchrunVars), SourceEnv, "10.0.0.1"},
		{"srun started its daemon: another rank", last, slurmVars.with(fluxVars).with(vars{"FLUX_TASK_RANK": "6"}), "flux", "f0"},
		{"srun started its daemon: another size", last, slurmVars.with(fluxVars).with(vars{"FLUX_JOB_SIZE": "14"}), "flux", "f0"},
		{"it agrees with srun, and comes later", last, slurmVars.with(fluxVars), SourceSlurm, "n007"},
		{"nobody claims the process", last, nil, SourceSingle, loopback},
	} {
		t.Run(test.name, func(t *testing.T) {
			env := newEnvironment(Options{Getenv: test.env.getenv})
			w, err := familyOf(env, test.families).detect(env)
			require.NoError(t, err)
			assert.Equal(t, test.want, w.Source)
			assert.Equal(t, test.addr, w.MasterAddr)
		})
	}
	t.Run("an error names its variable", func(t *testing.T) {
		env := newEnvironment(Options{Getenv: fluxVars.without("FLUX_JOB_SIZE").getenv})
		_, err := familyOf(env, last).detect(env)
		var e *Error
		require.ErrorAs(t, err, &e)
		assert.Equal(t, Error{Source: "flux", Variable: "FLUX_JOB_SIZE", Reason: "is not set although FLUX_TASK_RANK is", Hint: "flux run sets it"}, *e)
	})
}
