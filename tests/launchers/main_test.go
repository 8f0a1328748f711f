// Package launchers_test starts the real command under real launchers, and in
// the environments that others set.
package launchers_test

import (
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"pyhook/cbridge"
)

var (
	binary string // the command, built once
	python string // that has torch
)

func TestMain(m *testing.M) { os.Exit(prepared(m)) }

func prepared(m *testing.M) int {
	folder, err := os.MkdirTemp("", "pyhook-launchers-*")
	if err == nil {
		defer os.RemoveAll(folder)
		err = prepare(folder)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

func prepare(folder string) error {
	found, _, err := cbridge.Discover(context.Background(), "", "torch")
	if err != nil {
		return err
	}
	python = found.Executable
	if folder, err = filepath.EvalSymlinks(folder); err != nil { // as /proc/PID/exe reads
		return err
	}
	binary = filepath.Join(folder, "pyhook")
	// tests/matrix runs where Go is not; scripts/test.sh links it once for all packages.
	if built := cmp.Or(os.Getenv("PYHOOK_TEST_COMMAND"), os.Getenv("PYHOOK_LINKED_COMMAND")); built != "" {
		data, err := os.ReadFile(built)
		if err != nil {
			return err
		}
		return os.WriteFile(binary, data, 0o755)
	}
	build := exec.Command("go", "build", "-buildvcs=false", "-o", binary, "pyhook/cmd/pyhook")
	build.Env = append(os.Environ(), "GOEXPERIMENT=") // what the tests are built with is no part of the command
	out, err := build.CombinedOutput()
	if err != nil {
		return fmt.Errorf("building the command: %w\n%s", err, out)
	}
	return nil
}

// launchers are the prefixes of the variables that launch.Detect reads.
var launchers = []string{"RANK=", "WORLD_SIZE=", "LOCAL_", "GROUP_", "MASTER_", "TORCHELASTIC_", "PET_", "SLURM_", "OMPI_", "PMIX_",
	"PMI_", "MPI_", "MV2_"}

// environment is this process's, without what a launcher around the test may
// have set. One thread for arithmetic: the order of a sum depends on it.
func environment() []string {
	env := slices.DeleteFunc(os.Environ(), func(variable string) bool {
		return slices.ContainsFunc(launchers, func(prefix string) bool { return strings.HasPrefix(variable, prefix) })
	})
	return append(env, "PYHOOK_PYTHON="+python, "OMP_NUM_THREADS=1", "GLOO_SOCKET_IFNAME=lo")
}

func digest(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	return fmt.Sprintf("%x", sha256.Sum256(data))
}
