// Package recording makes recordings for tests: a small network that trains under stock
// DistributedDataParallel on real ranks, its hook recorded by pyhook.record.
package recording

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"pyhook/cbridge"
)

// Case is one training, recorded to a folder of its name.
type Case struct {
	Name      string         `json:"name"`
	Hook      string         `json:"hook"`
	State     string         `json:"state,omitempty"`
	StateArgs map[string]any `json:"state_args,omitempty"`
	Sizes     []int          `json:"sizes"`  // of the layers
	CapMB     float64        `json:"cap_mb"` // of the buckets after the first step
	Steps     int            `json:"steps"`
	Record    int            `json:"record"` // how many of them
	Every     int            `json:"every,omitempty"`
	View      bool           `json:"view,omitempty"`  // gradient_as_bucket_view
	Clip      float64        `json:"clip,omitempty"`  // gradients, in place, after the reduction
	Group     bool           `json:"group,omitempty"` // the state is a process group of the rank alone
	DType     string         `json:"dtype,omitempty"`
}

// Facts are what a rank found.
type Facts struct {
	Alike bool   // the weights are those of the training that was not recorded
	Error string // of stock DDP, without a recording
	Where string
}

// Testdata is where the hooks are.
func Testdata() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "testdata")
}

// Python returns an interpreter that has the torch of cbridge's and safetensors, which
// scripts/setup-tools.sh installs beside it; where that script is not, as in the matrix, the
// interpreter itself, or the test is skipped.
func Python(t testing.TB) string {
	t.Helper()
	found, _, err := cbridge.Discover(t.Context(), "", "torch")
	require.NoError(t, err)
	if os.Getenv("PYHOOK_TEST_COMMAND") != "" { // tests/matrix
		if err := exec.Command(found.Executable, "-c", "import safetensors").Run(); err != nil {
			t.Skip("this environment has no safetensors, without which nothing is recorded")
		}
		return found.Executable
	}
	script := filepath.Join(Testdata(), "..", "..", "..", "scripts", "setup-tools.sh")
	out, err := exec.CommandContext(t.Context(), script, found.Executable).Output()
	require.NoError(t, err, "scripts/setup-tools.sh")
	return filepath.Join(string(out[:len(out)-1]), "python")
}

// Make trains the cases on as many ranks and returns the folder that has a recording of each, and
// what each rank found. The recorded training must have the weights of the plain one.
func Make(t testing.TB, world int, cases []Case) (folder string, facts map[string][]Facts) {
	t.Helper()
	folder = t.TempDir()
	plan, err := json.Marshal(map[string][]Case{strconv.Itoa(world): cases})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(folder, "plan.json"), plan, 0o600))
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, Python(t), "-B", filepath.Join(Testdata(), "train.py"), filepath.Join(folder, "plan.json"))
	cmd.Env = append(os.Environ(), "PYTHONPATH="+filepath.Join(Testdata(), "..", "..", "..", "python")+":"+os.Getenv("PYTHONPATH"), "OMP_NUM_THREADS=1", "OPENBLAS_NUM_THREADS=1", "MKL_NUM_THREADS=1", "TORCH_CPP_LOG_LEVEL=ERROR")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	facts = map[string][]Facts{}
	for _, c := range cases {
		for rank := range world {
			text, err := os.ReadFile(filepath.Join(folder, fmt.Sprintf("%s.rank%d.json", c.Name, rank)))
			require.NoError(t, err)
			var f Facts
			require.NoError(t, json.Unmarshal(text, &f))
			require.True(t, f.Alike || f.Error != "", "%s, rank %d: recording changed the weights", c.Name, rank)
			facts[c.Name] = append(facts[c.Name], f)
		}
	}
	return folder, facts
}
