package docker_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// commandLimit bounds one call of the engine's client.
const commandLimit = 3 * time.Minute

// command runs a program that ends with the test and returns what it printed,
// stdout and stderr together.
func command(env []string, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), commandLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s %s: %w", name, strings.Join(args, " "), err)
	}
	return out.String(), nil
}

// docker runs the client and returns what it printed.
func docker(t *testing.T, args ...string) string {
	t.Helper()
	out, err := command(nil, "docker", args...)
	require.NoError(t, err, "%s", out)
	return strings.TrimSpace(out)
}

// run starts a container of an image, waits for its end and takes it away.
func run(args ...string) (string, error) {
	return command(nil, "docker", append([]string{"run", "--rm", "--label", "pyhook.test=run", "--network", "none"}, args...)...)
}

// shared makes a folder that the image's user, who is another one here, may
// write in. What is in it is that user's, so a container takes it away.
func shared(t *testing.T) string {
	t.Helper()
	folder := t.TempDir()
	require.NoError(t, os.Chmod(folder, 0o777))
	t.Cleanup(func() {
		if os.Geteuid() != 0 {
			_, _ = run("-v", folder+":/data", "--entrypoint", "find", image+":none", "/data", "-mindepth", "1", "-delete")
		}
	})
	return folder
}
