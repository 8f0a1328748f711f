package release_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestTheArm64BinaryRuns runs it in an emulator, in a Debian for arm64 with its
// own Python and torch.
func TestTheArm64BinaryRuns(t *testing.T) {
	root := os.Getenv("PYHOOK_ARM64_ROOT")
	if root == "" {
		t.Skip("PYHOOK_ARM64_ROOT is not set: scripts/test.sh arm64 makes one and runs this")
	}
	folder := filepath.Join(root, "tmp", "pyhook-test")
	require.NoError(t, os.RemoveAll(folder))
	require.NoError(t, os.MkdirAll(folder, 0o755))
	t.Cleanup(func() { _ = os.RemoveAll(folder) })
	out, err := exec.Command("cp", filepath.Join(unpacked(t, "arm64"), "pyhook"), folder).CombinedOutput()
	require.NoError(t, err, "%s", out)
	scripts, err := filepath.Abs(filepath.Join("..", "..", "scripts"))
	require.NoError(t, err)
	pyhook := func(args ...string) string {
		env := []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "GLOO_SOCKET_IFNAME=lo"}
		inside := append([]string{root, "/tmp/pyhook-test/pyhook"}, args...)
		return ran(t, folder, env, filepath.Join(scripts, "in-arm64.sh"), inside...)
	}

	var said struct{ Version, Arch string }
	require.NoError(t, json.Unmarshal([]byte(pyhook("version", "--json")), &said))
	assert.Equal(t, version(t), said.Version)
	assert.Equal(t, "arm64", said.Arch)
	t.Log(pyhook("doctor", "--quick"))
	assertTrains(t, pyhook("train", "-n", "2", "--hook", "fp16", "--epochs", "1", "--timeout", "5m", "--json"))
}
