package launch

import (
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func sampleWorld() World {
	return World{Rank: 5, Size: 8, LocalRank: 1, LocalSize: 4, NodeRank: 1, Nodes: 2,
		MasterAddr: "fe80::1", MasterPort: 1234, Source: SourceSlurm}
}

func TestWorld_String(t *testing.T) {
	t.Run("names the family", func(t *testing.T) {
		w := sampleWorld()
		assert.Equal(t, "rank 5 of 8 (local 1 of 4) from Slurm's SLURM_PROCID/SLURM_NTASKS, master [fe80::1]:1234", w.String())
		w.Note = "a note"
		assert.Equal(t, "rank 5 of 8 (local 1 of 4) from Slurm's SLURM_PROCID/SLURM_NTASKS, master [fe80::1]:1234; a note", w.String())
	})
}

func TestWorld_Export(t *testing.T) {
	t.Run("sets torchrun's variables and none of torchelastic's", func(t *testing.T) {
		names := []string{"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
		for _, n := range names {
			t.Setenv(n, "")
		}
		t.Setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
		require.NoError(t, sampleWorld().Export())
		got := []string{}
		for _, n := range names {
			got = append(got, n+"="+os.Getenv(n))
		}
		want := []string{"RANK=5", "WORLD_SIZE=8", "LOCAL_RANK=1", "LOCAL_WORLD_SIZE=4", "GROUP_RANK=1", "GROUP_WORLD_SIZE=2",
			"MASTER_ADDR=fe80::1", "MASTER_PORT=1234"}
		assert.Equal(t, want, got)
		assert.Equal(t, want, sampleWorld().Environ())
		assert.Equal(t, "True", os.Getenv("TORCHELASTIC_USE_AGENT_STORE"))
	})
	t.Run("refuses the zero World", func(t *testing.T) {
		t.Setenv("RANK", "untouched")
		var e *Error
		require.ErrorAs(t, World{}.Export(), &e)
		assert.Equal(t, "Size", e.Variable)
		assert.Equal(t, "untouched", os.Getenv("RANK"))
	})
}
