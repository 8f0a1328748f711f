//go:build unix

package launch

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func init() { roles["cleans up"] = roleCleansUp }

// roleCleansUp calls stop as soon as SIGTERM arrives, and then has something left to do.
func roleCleansUp() int {
	ctx, stop := WithSIGTERM(context.Background())
	fmt.Println("ready")
	<-ctx.Done()
	stop()
	fmt.Println("stopping")
	time.Sleep(300 * time.Millisecond)
	fmt.Println("cleaned up")
	if os.Getenv(pathVariable) == "stays" {
		hang()
	}
	return Fail(context.Cause(ctx))
}

func TestWithSIGTERM_echo(t *testing.T) {
	for name, stays := range map[string]string{"a second SIGTERM does not cut off the end": "", "a later SIGTERM kills": "stays"} {
		t.Run(name, func(t *testing.T) {
			command, env := self("cleans up", stays)
			cmd := exec.Command(command[0])
			cmd.Env = env
			stdout, err := cmd.StdoutPipe()
			require.NoError(t, err)
			require.NoError(t, cmd.Start())
			t.Cleanup(func() { _ = cmd.Process.Kill() })
			lines := bufio.NewScanner(stdout)
			expect := func(want string) {
				t.Helper()
				require.True(t, lines.Scan())
				assert.Equal(t, want, lines.Text())
			}
			expect("ready")
			require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
			expect("stopping")
			require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
			expect("cleaned up")
			if stays != "" { // later, after stop, SIGTERM is itself again
				time.Sleep(SignalEcho)
				require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
			}
			err = cmd.Wait()
			var exit *exec.ExitError
			require.ErrorAs(t, err, &exit)
			if stays == "" {
				assert.Equal(t, exitTerminated, exit.ExitCode(), "%v", err)
			} else {
				assert.Equal(t, syscall.SIGTERM, exit.Sys().(syscall.WaitStatus).Signal())
			}
		})
	}
}
