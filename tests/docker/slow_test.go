package docker_test

import (
	"os"
	"strings"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// shape says how tc holds back what a container sends: by netem, or where the
// kernel was built without it by a token bucket.
type shape struct{ netem, bucket string }

var (
	// A step exchanges 7 to 70 KB a rank.
	slower = shape{"netem delay 60ms", "tbf rate 1mbit burst 16kb latency 1s"}
	// Nothing comes in time, although connections stand. mpu: a small packet costs as
	// much as a large one, or some would come through every few seconds.
	stalled = shape{"netem delay 60s", "tbf rate 80bit burst 2kb mpu 2000 latency 600s"}
)

// hold shapes what the host sends until the function that it returns is called.
func (j *job) hold(host int, s shape) (release func()) {
	j.t.Helper()
	require.Zero(j.t, os.Geteuid(), "tc in another's network takes root")
	pid := j.inspect(host, "{{.State.Pid}}")
	tc := func(args string) (string, error) {
		return command(nil, "nsenter", strings.Fields("-t "+pid+" -n tc qdisc "+args)...)
	}
	kind := s.netem
	out, err := tc("add dev eth0 root " + kind)
	if err != nil {
		require.Contains(j.t, out, "qdisc kind is unknown")
		kind = s.bucket
		out, err = tc("add dev eth0 root " + kind)
	}
	require.NoError(j.t, err, "%s", out)
	j.t.Logf("host %d: %s", host, kind)
	return func() {
		// A host whose torchrun gave up is started again with a new network, which
		// nothing holds back. The engine notices an end a moment later.
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(100 * time.Millisecond) {
			out, err := tc("del dev eth0 root")
			if err == nil {
				return
			}
			if now := j.inspect(host, "{{.State.Pid}}"); now != pid {
				j.t.Logf("host %d has ended by itself: it was process %s and is %s", host, pid, now)
				return
			}
			require.True(j.t, time.Now().Before(deadline), "%v\n%s", err, out)
		}
	}
}

// pace is how long an epoch takes now.
func (j *job) pace() time.Duration {
	j.t.Helper()
	step := j.saved(j.latest())
	start := time.Now()
	j.saved(step)
	return time.Since(start)
}

// slow holds a host back for two epochs: nobody minds.
func (j *job) slow(victim int) {
	before := j.pace()
	release := j.hold(victim, slower)
	during := j.pace()
	release()
	j.t.Logf("an epoch took %.2f s, and then %.2f s", before.Seconds(), during.Seconds())
	assert.Greater(j.t, during, stepsAnEpoch*60*time.Millisecond, "a step takes the delay at least; unhindered an epoch is well under a second")
	for host := range j.ids {
		assert.NotRegexp(j.t, rankFailed, docker(j.t, "logs", "-t", j.ids[host]), "host %d", host)
	}
}

// stall holds a host back for longer than the timeout.
func (j *job) stall(victim int) {
	since := time.Now()
	release := j.hold(victim, stalled)
	j.othersFail(victim, since)
	release()
}
