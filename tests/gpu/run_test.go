package gpu_test

import (
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// run.sh without a GPU ends before it builds anything, and says why.
func TestRun_noGPU(t *testing.T) {
	if exec.Command("nvidia-smi").Run() == nil {
		t.Skip("here is a GPU")
	}
	cmd := exec.Command("./run.sh")
	cmd.Env = append(os.Environ(), "PYHOOK_PYTHON=/nonexistent") // what it would look at next
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit)
	assert.Equal(t, 1, exit.ExitCode())
	assert.Contains(t, string(out), "nvidia-smi finds no GPU")
	assert.NotContains(t, string(out), "nonexistent")
	assert.NotContains(t, string(out), "command not found")
}
