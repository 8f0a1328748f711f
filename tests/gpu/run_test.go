package gpu_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/cbridge"
)

// run.sh without a GPU ends before it builds anything, and says why.
func TestRun_noGPU(t *testing.T) { saysNoGPU(t, "./run.sh") }

func saysNoGPU(t *testing.T, script string) {
	t.Helper()
	if exec.Command("nvidia-smi").Run() == nil {
		t.Skip("here is a GPU")
	}
	cmd := exec.Command(script)
	cmd.Env = append(os.Environ(), "PYHOOK_PYTHON=/nonexistent") // what it would look at next
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit)
	assert.Equal(t, 1, exit.ExitCode())
	assert.Contains(t, string(out), "nvidia-smi finds no GPU")
	assert.NotContains(t, string(out), "nonexistent")
	assert.NotContains(t, string(out), "command not found")
}

// A bundle is all that run.sh needs elsewhere. Building it takes a minute, so PYHOOK_DEEP asks for it.
func TestRun_bundle(t *testing.T) {
	if os.Getenv("PYHOOK_DEEP") == "" {
		t.Skip("PYHOOK_DEEP is not set")
	}
	folder := t.TempDir()
	out, err := exec.Command("./run.sh", "bundle", folder).CombinedOutput()
	require.NoError(t, err, string(out))
	saysNoGPU(t, filepath.Join(folder, "tests/gpu/run.sh"))
	// Its programs run, and see that there is no GPU.
	hooks := exec.Command(filepath.Join(folder, "bin/gpu.test"), "-test.v", "-test.skip=TestRun")
	hooks.Dir = filepath.Join(folder, "tests/gpu")
	out, err = hooks.CombinedOutput()
	require.NoError(t, err, string(out))
	assert.Contains(t, string(out), "--- SKIP: TestTheStreamWaitsAndNotTheCPU")
}

// The summary has every part and test, and fails if one does.
func TestRun_summary(t *testing.T) {
	python, _, err := cbridge.Discover(t.Context(), "", "torch")
	require.NoError(t, err)
	for name, test := range map[string]struct {
		log, parts string
		status     int
	}{
		"good":          {"--- PASS: TestA (0.1s)\n    --- SKIP: TestA/b (0.0s)\n", "hooks 0 7\n", 0},
		"a failed test": {"--- PASS: TestA (0.1s)\n    --- FAIL: TestA/b (0.0s)\n", "hooks 0 7\n", 1},
		"a failed part": {"--- PASS: TestA (0.1s)\n", "hooks 0 7\nbench 124 120\n", 1},
		"nothing ran":   {"", "hooks 0 7\n", 1},
	} {
		t.Run(name, func(t *testing.T) {
			folder := t.TempDir()
			for file, text := range map[string]string{"hooks.log": test.log, "parts.txt": test.parts, "card.txt": "a card\n",
				"ddp-cuda0.json": `[{"case": "none/copy", "ratio": 0.5}]`} {
				require.NoError(t, os.WriteFile(filepath.Join(folder, file), []byte(text), 0o600))
			}
			cmd := exec.Command(python.Executable, "summary.py", folder)
			out, _ := cmd.CombinedOutput()
			assert.Equal(t, test.status, cmd.ProcessState.ExitCode(), string(out))
			assert.Contains(t, string(out), "0.50 times stock DDP's step")
			data, err := os.ReadFile(filepath.Join(folder, "results.json"))
			require.NoError(t, err)
			var results struct {
				Card  string
				Tests map[string]string
				Parts map[string]struct{ Seconds int }
			}
			require.NoError(t, json.Unmarshal(data, &results))
			assert.Equal(t, "a card", results.Card)
			assert.Equal(t, 7, results.Parts["hooks"].Seconds)
			if test.log != "" {
				assert.Equal(t, "PASS", results.Tests["TestA"])
			}
		})
	}
}
