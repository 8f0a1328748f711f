package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/internal/cli"
	"pyhook/internal/cli/clitest"
)

// Python looks into the working folder first, as it does for a script there.
func TestAFileThatStandsInForALibraryIsNamedByEachCommand(t *testing.T) {
	for _, name := range []string{"torch", "numpy"} {
		folder, err := filepath.EvalSymlinks(t.TempDir())
		require.NoError(t, err)
		file := filepath.Join(folder, name+".py")
		require.NoError(t, os.WriteFile(file, []byte("mine = 1\n"), 0o644))
		for _, args := range [][]string{
			{"doctor", "--quick"},
			{"check", "allreduce", "-n", "1", "--steps", "1", "--sizes", "4"},
			{"train", "-n", "1", "--hook", "allreduce", "--epochs", "1"},
		} {
			r := clitest.CommandAt(t, folder, nil, args...)
			said := r.Stdout + r.Stderr
			assert.NotEqual(t, cli.ExitOK, r.Code, said)
			assert.Contains(t, said, file+" is found as "+name+", in place of ", args[0])
			assert.Contains(t, said, "rename the file", args[0])
		}
	}
}

func TestAPythonHomeThatDoesNotFitIsSaidInPythonsWords(t *testing.T) {
	home := t.TempDir()
	for _, args := range [][]string{{"doctor", "--quick"}, {"check", "allreduce"}} {
		r := clitest.CommandAt(t, ".", []string{"PYTHONHOME=" + home}, args...)
		said := r.Stdout + r.Stderr
		assert.Equal(t, cli.ExitNoPython, r.Code, said)
		assert.Contains(t, said, "Fatal Python error: ", args[0])
		assert.Contains(t, said, "ModuleNotFoundError: No module named 'encodings'", args[0])
		assert.Contains(t, said, "unset PYTHONHOME, which is "+home, args[0])
	}
}
