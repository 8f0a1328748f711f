package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"pyhook/internal/cli"
	"pyhook/internal/cli/clitest"
	"pyhook/launch"
	"pyhook/pyhook"
)

// here runs the command in this process: for what starts no Python.
func here(args ...string) clitest.Result {
	var stdout, stderr bytes.Buffer
	code := run(args, &stdout, &stderr)
	return clitest.Result{Code: code, Stdout: stdout.String(), Stderr: stderr.String()}
}

func TestErrorsHaveTheirExitCodes(t *testing.T) {
	for _, c := range []struct {
		err  error
		want int
	}{
		{errors.New("anything"), cli.ExitFailed},
		{cli.UsageError("wrong"), cli.ExitUsage},
		{errors.New(`required flag(s) "hook" not set`), cli.ExitUsage},
		{fmt.Errorf("x: %w", &pyhook.DiscoveryError{}), cli.ExitNoPython},
		{fmt.Errorf("x: %w", &launch.RankError{Rank: 1, ExitCode: 7}), cli.ExitRankDied},
		{fmt.Errorf("x: %w", launch.ErrTerminated), cli.ExitTerminated},
		{fmt.Errorf("x: %w", cli.ErrInterrupted), cli.ExitInterrupted},
	} {
		assert.Equal(t, c.want, exitCode(context.Background(), c.err), "%v", c.err)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(cli.ErrInterrupted)
	assert.Equal(t, cli.ExitInterrupted, exitCode(ctx, errors.New("something failed as it stopped")))
}

func TestWrongCommandLinesExitTwoWithAHintAndNoUsageDump(t *testing.T) {
	for _, line := range []string{"chekc", "check", "check a b", "check allreduce --nope", "check allreduce --dtype int8", "check allreduce -n 0",
		"check allreduce -n x", "check allreduce --sizes 3xy", "check allreduce --buckets -1", "check allreduce --steps 0", "check allreduce --state-arg x=1",
		"check powersgd --state-arg x", "check allreduce --backend nccl", "doctor extra", "version extra", "doctor --no-such"} {
		r := here(strings.Fields(line)...)
		assert.Equal(t, cli.ExitUsage, r.Code, line)
		assert.Empty(t, r.Stdout, line)
		assert.Contains(t, r.Stderr, "error: ", line)
		assert.Contains(t, r.Stderr, "hint: pyhook", line)
		assert.NotContains(t, r.Stderr, "Usage:", line)
	}
	assert.Contains(t, here("chekc").Stderr, "hint: did you mean check?")
}

func TestHelp(t *testing.T) {
	r := here("help", "exit-codes")
	assert.Equal(t, cli.ExitOK, r.Code)
	clitest.Golden(t, "help_exit_codes.txt", r.Stdout)
	assert.Contains(t, here("check", "--help").Stdout, "start_powerSGD_iter=2", "the state that powersgd gets is documented")
	assert.Contains(t, here("help", "json").Stdout, "first_unlike_step")
	assert.NotContains(t, here("--help").Stdout, "__check-rank")
}

func TestJSONFieldsAreThoseOfTheHelp(t *testing.T) {
	clitest.NeedFields(t, jsonText, versionReport{Commit: "x"})
}

func TestVersion(t *testing.T) {
	assert.Regexp(t, `^pyhook dev .*go1\.\d+\S* \w+/\w+\n$`, here("version").Stdout)
	v := clitest.Parse[versionReport](t, here("version", "--json").Stdout)
	assert.Equal(t, "dev", v.Version)
	if !testing.Short() {
		assert.Contains(t, clitest.Command(t, nil, "version").Stdout, "pyhook v0.0.0-test", "the build stamps it")
	}
}

func TestCompletion(t *testing.T) {
	for _, sh := range []string{"bash", "zsh", "fish"} {
		r := here("completion", sh)
		assert.Equal(t, cli.ExitOK, r.Code, sh)
		assert.Contains(t, r.Stdout, "pyhook", sh)
	}
	hooks := here("__complete", "check", "").Stdout
	for name := range cli.HookNames {
		assert.Contains(t, hooks, name)
	}
	assert.NotContains(t, here("__complete", "check", "po").Stdout, "allreduce")
	assert.NotContains(t, here("__complete", "check", "fp16", "").Stdout, "allreduce", "there is one hook")
	assert.Contains(t, here("__complete", "check", "fp16", "--dtype", "").Stdout, "bfloat16")
	assert.Contains(t, here("__complete", "check", "fp16", "--state", "").Stdout, "powersgd")
	assert.Contains(t, here("__complete", "check", "fp16", "--backend", "").Stdout, "gloo")
}
