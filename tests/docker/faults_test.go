package docker_test

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// fault is what happens to one container of a job as it trains.
type fault struct {
	name string
	// does it and, once the others have noticed, ends it.
	do func(j *job, victim int)
}

var faults = []fault{
	{"killed", (*job).kill},
	{"paused", (*job).pause},
	{"cut off", (*job).cutOff},
	{"slowed", (*job).slow},
	{"stalled", (*job).stall},
}

// TestAFaultOfOneContainerCostsNothingButTime: the others get a typed error
// within the timeout, the job restarts, and ends as if nothing had been.
func TestAFaultOfOneContainerCostsNothingButTime(t *testing.T) {
	for _, f := range faults {
		for _, tr := range []training{{2, "allreduce", 40}, {2, "fp16", 40}, {4, "powersgd", 30}} {
			t.Run(fmt.Sprintf("%s/%s", f.name, tr), func(t *testing.T) {
				t.Parallel()
				j := start(t, tr)
				step := j.saved(stepsAnEpoch)
				delay := time.Duration(rand.IntN(500)) * time.Millisecond
				time.Sleep(delay)
				victim := rand.IntN(tr.hosts)
				t.Logf("%s: host %d, %s after step %d", f.name, victim, delay, step)
				f.do(j, victim)
				j.wait()
				j.alike()
			})
		}
	}
}

// TestARollingRestartCostsNothingButTime restarts every container, one after another.
func TestARollingRestartCostsNothingButTime(t *testing.T) {
	for _, tr := range []training{{2, "fp16", 40}, {4, "powersgd", 30}} {
		t.Run(tr.String(), func(t *testing.T) {
			t.Parallel()
			j := start(t, tr)
			for host := range j.ids {
				t.Logf("host %d after step %d", host, j.saved(j.latest()))
				docker(t, "restart", "-t", "20", j.ids[host])
			}
			j.wait()
			j.alike()
			assert.NotZero(t, j.report().FirstStep, "it went on from a checkpoint")
		})
	}
}

var (
	// rankFailed is the line that a rank of pyhook train ends with.
	rankFailed = regexp.MustCompile(`(?m)^(\S+) (error: .*)$`)
	// typed is what such a line says: of a step, or of the barrier before a checkpoint.
	typed = regexp.MustCompile(`rank \d: .*hook \S+, rank \d, bucket \d: |rank \d: the step failed|barrier, rank \d: `)
)

// failed waits until a host's rank has ended with an error, and returns that
// and when it was said.
func (j *job) failed(host int, since time.Time) (string, time.Time) {
	j.t.Helper()
	var out string
	for deadline := time.Now().Add(2 * timeout); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		out = docker(j.t, "logs", "-t", "--since", since.Format(time.RFC3339Nano), j.ids[host])
		if found := rankFailed.FindStringSubmatch(out); found != nil {
			at, err := time.Parse(time.RFC3339Nano, found[1])
			require.NoError(j.t, err)
			return found[2], at
		}
	}
	require.Fail(j.t, "no error", "host %d\n%s", host, out)
	return "", time.Time{}
}

// othersFail: every host but the victim has an error that names hook, rank and
// bucket, no later than the timeout and 2 seconds after the fault.
func (j *job) othersFail(victim int, since time.Time) {
	j.t.Helper()
	for host := range j.ids {
		if host != victim {
			text, at := j.failed(host, since)
			j.t.Logf("host %d after %.1f s: %s", host, at.Sub(since).Seconds(), text)
			assert.Regexp(j.t, typed, text)
			assert.Less(j.t, at.Sub(since), timeout+2*time.Second)
		}
	}
}

func (j *job) kill(victim int) {
	since := time.Now()
	docker(j.t, "kill", j.ids[victim])
	j.othersFail(victim, since)
	docker(j.t, "start", j.ids[victim])
}

func (j *job) pause(victim int) {
	since := time.Now()
	docker(j.t, "pause", j.ids[victim])
	j.othersFail(victim, since)
	docker(j.t, "unpause", j.ids[victim])
}

func (j *job) cutOff(victim int) {
	name := j.project + "_default"
	address := j.inspect(victim, "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}")
	since := time.Now()
	docker(j.t, "network", "disconnect", name, j.ids[victim])
	j.othersFail(victim, since)
	j.failed(victim, since)
	docker(j.t, "network", "connect", "--ip", address, name, j.ids[victim])
}
