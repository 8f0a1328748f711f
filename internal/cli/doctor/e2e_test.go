package doctor

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/internal/cli"
	"pyhook/internal/cli/clitest"
)

func TestDoctorOnThisMachine(t *testing.T) {
	r := clitest.Command(t, nil, "doctor", "--json")
	require.Equal(t, cli.ExitOK, r.Code, "%s%s", r.Stdout, r.Stderr)
	assert.Empty(t, r.Stderr)
	d := clitest.Parse[doctorReport](t, r.Stdout)
	assert.True(t, d.Healthy)
	assert.Equal(t, "v0.0.0-test", d.Version)
	require.NotNil(t, d.Python)
	assert.FileExists(t, d.Python.Executable)
	assert.FileExists(t, d.Python.Library)
	assert.NotEmpty(t, d.Torch.Version)
	gloo := d.Backends["gloo"]
	require.NotNil(t, gloo)
	assert.True(t, gloo.BuiltIn && gloo.Tried)
	assert.Equal(t, 2, gloo.Ranks)
	assert.Equal(t, "", gloo.DTypes["float32"])
	assert.Contains(t, gloo.DTypes, "float16")
	assert.GreaterOrEqual(t, len(d.Checks), 5)

	text := clitest.Command(t, nil, "doctor")
	assert.Contains(t, text.Stdout, "all-reduces float32 float64")
	assert.Contains(t, text.Stdout, "\nready")
}

func TestDoctorQuickStartsNoRanks(t *testing.T) {
	r := clitest.Command(t, nil, "doctor", "--quick", "--json")
	require.Equal(t, cli.ExitOK, r.Code, r.Stderr)
	d := clitest.Parse[doctorReport](t, r.Stdout)
	assert.True(t, d.Quick)
	assert.False(t, d.Backends["gloo"].Tried)
}

// bareVenv is a virtual environment without torch.
func bareVenv(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, python := range []string{os.Getenv("PYHOOK_PYTHON"), "python3"} {
		if python != "" && exec.Command(python, "-m", "venv", "--without-pip", dir).Run() == nil {
			return filepath.Join(dir, "bin", "python")
		}
	}
	t.Skip("no Python here can make a virtual environment")
	return ""
}

func TestDoctorWithoutTorch(t *testing.T) {
	python := bareVenv(t)
	for _, env := range [][]string{{"PYHOOK_PYTHON=" + python}, nil} {
		args := []string{"doctor", "--json"}
		if env == nil {
			args = append(args, "--python", python)
		}
		r := clitest.Command(t, env, args...)
		assert.Equal(t, cli.ExitNoPython, r.Code)
		d := clitest.Parse[doctorReport](t, r.Stdout)
		assert.False(t, d.Healthy)
		assert.Equal(t, cli.ExitNoPython, d.ExitCode)
		assert.Nil(t, d.Torch)
		require.NotNil(t, d.Python, "it still says which Python it is")
		assert.Equal(t, python, d.Python.Executable)
		require.Len(t, d.Refused, 1)
		assert.Contains(t, d.Refused[0].Why, "has no module torch")
		require.Len(t, d.Checks, 1)
		assert.Equal(t, "torch", d.Checks[0].ID)
		assert.Contains(t, d.Checks[0].Hint, "-m pip install torch")
	}
}

func TestDoctorWithoutAnyPython(t *testing.T) {
	r := clitest.Command(t, []string{"PYHOOK_PYTHON=/nowhere/python"}, "doctor")
	assert.Equal(t, cli.ExitNoPython, r.Code)
	assert.Contains(t, r.Stdout, "refused  /nowhere/python (PYHOOK_PYTHON): not found")
	assert.Contains(t, r.Stdout, "not ready")
}

// TestDoctorSurvivesACrash has a torch that takes the process down as it is
// imported.
func TestDoctorSurvivesACrash(t *testing.T) {
	python := bareVenv(t)
	out, err := exec.Command(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'), end='')").Output()
	require.NoError(t, err)
	torch := filepath.Join(string(out), "torch")
	require.NoError(t, os.MkdirAll(torch, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(torch, "__init__.py"), []byte("import os, signal\nprint('last words', flush=True)\nos.kill(os.getpid(), signal.SIGKILL)\n"), 0o644))
	r := clitest.Command(t, []string{"PYHOOK_PYTHON=" + python}, "doctor", "--json")
	assert.Equal(t, cli.ExitNoPython, r.Code)
	d := clitest.Parse[doctorReport](t, r.Stdout)
	require.NotEmpty(t, d.Checks)
	if d.Checks[0].ID == "start" { // a Python without a shared library does not get so far
		assert.Regexp(t, "ended by killed|libpython", d.Checks[0].Message)
	}
}
