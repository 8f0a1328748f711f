package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"pyhook/launch"
	"pyhook/pyhook"
)

// here runs the command in this process: for what starts no Python.
func here(args ...string) result {
	var stdout, stderr bytes.Buffer
	code := run(args, &stdout, &stderr)
	return result{code, stdout.String(), stderr.String()}
}

func TestErrorsHaveTheirExitCodes(t *testing.T) {
	for _, c := range []struct {
		err  error
		want int
	}{
		{errors.New("anything"), exitFailed},
		{usageError("wrong"), exitUsage},
		{errors.New(`required flag(s) "hook" not set`), exitUsage},
		{fmt.Errorf("x: %w", &pyhook.DiscoveryError{}), exitNoPython},
		{fmt.Errorf("x: %w", &launch.RankError{Rank: 1, ExitCode: 7}), exitRankDied},
		{fmt.Errorf("x: %w", launch.ErrTerminated), exitTerminated},
		{fmt.Errorf("x: %w", errInterrupted), exitInterrupted},
	} {
		assert.Equal(t, c.want, exitCode(context.Background(), c.err), "%v", c.err)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(errInterrupted)
	assert.Equal(t, exitInterrupted, exitCode(ctx, errors.New("something failed as it stopped")))
}

func TestWrongCommandLinesExitTwoWithAHintAndNoUsageDump(t *testing.T) {
	for _, line := range []string{"chekc", "check", "check a b", "check allreduce --nope", "check allreduce --dtype int8", "check allreduce -n 0",
		"check allreduce -n x", "check allreduce --sizes 3xy", "check allreduce --buckets -1", "check allreduce --steps 0", "check allreduce --state-arg x=1",
		"check powersgd --state-arg x", "check allreduce --backend nccl", "doctor extra", "version extra", "doctor --no-such"} {
		r := here(strings.Fields(line)...)
		assert.Equal(t, exitUsage, r.code, line)
		assert.Empty(t, r.stdout, line)
		assert.Contains(t, r.stderr, "error: ", line)
		assert.Contains(t, r.stderr, "hint: pyhook", line)
		assert.NotContains(t, r.stderr, "Usage:", line)
	}
	assert.Contains(t, here("chekc").stderr, "hint: did you mean check?")
}

func TestHelp(t *testing.T) {
	r := here("help", "exit-codes")
	assert.Equal(t, exitOK, r.code)
	golden(t, "help_exit_codes.txt", r.stdout)
	assert.Contains(t, here("check", "--help").stdout, "start_powerSGD_iter=2", "the state that powersgd gets is documented")
	assert.Contains(t, here("help", "json").stdout, "first_unlike_step")
	assert.NotContains(t, here("--help").stdout, "__check-rank")
}

func TestJSONFieldsAreThoseOfTheHelp3(t *testing.T) {
	needFields(t, jsonText, versionReport{Commit: "x"})
}

func TestVersion(t *testing.T) {
	assert.Regexp(t, `^pyhook dev .*go1\.\d+\S* \w+/\w+\n$`, here("version").stdout)
	v := parse[versionReport](t, here("version", "--json").stdout)
	assert.Equal(t, "dev", v.Version)
	if !testing.Short() {
		assert.Contains(t, command(t, nil, "version").stdout, "pyhook v0.0.0-test", "the build stamps it")
	}
}

func TestCompletion(t *testing.T) {
	for _, sh := range []string{"bash", "zsh", "fish"} {
		r := here("completion", sh)
		assert.Equal(t, exitOK, r.code, sh)
		assert.Contains(t, r.stdout, "pyhook", sh)
	}
	hooks := here("__complete", "check", "").stdout
	for name := range hookNames {
		assert.Contains(t, hooks, name)
	}
	assert.NotContains(t, here("__complete", "check", "po").stdout, "allreduce")
	assert.NotContains(t, here("__complete", "check", "fp16", "").stdout, "allreduce", "there is one hook")
	assert.Contains(t, here("__complete", "check", "fp16", "--dtype", "").stdout, "bfloat16")
	assert.Contains(t, here("__complete", "check", "fp16", "--state", "").stdout, "powersgd")
	assert.Contains(t, here("__complete", "check", "fp16", "--backend", "").stdout, "gloo")
}
