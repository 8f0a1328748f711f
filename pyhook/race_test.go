//go:build race

package pyhook

import (
	"os/exec"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func init() { children["a data race"] = childRaces }

func childRaces(is *require.Assertions) {
	started(is)
	var n int
	done := make(chan bool)
	go func() {
		n++
		close(done)
	}()
	n++
	<-done
	is.Equal(2, n)
}

// The process skips the destructors of C's libraries, and not what the race detector says at its end.
func TestStart_RaceDetector(t *testing.T) {
	out, err := child(t, "a data race", "GORACE=exitcode=66").CombinedOutput()
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit, "%s", out)
	assert.Equal(t, 66, exit.ExitCode())
	assert.Contains(t, string(out), "Found 1 data race(s)")
}
