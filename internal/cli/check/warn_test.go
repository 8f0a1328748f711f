package check

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/internal/cli"
	"pyhook/internal/cli/clitest"
)

func TestResultsFarFromTheMeanAreWarnedOfWhereNoBoundWasAskedFor(t *testing.T) {
	far := func(rms float64) []*rankReport {
		ranks := sampleRanks()
		for _, rank := range ranks {
			rank.Calls[1][1].Error = deviation{1, rms}
		}
		return ranks
	}
	r := aggregate(samplePlan(), far(0.99))
	require.True(t, r.OK)
	require.Len(t, r.Warnings, 1)
	assert.Contains(t, r.Warnings[0], "bucket 1 is nowhere near the exact mean: its relative rms error is 0.99")
	assert.Contains(t, r.Warnings[0], "--nccl-futures")
	assert.Contains(t, checkText(r), "\nwarning: bucket 1 is nowhere")

	assert.Empty(t, aggregate(samplePlan(), far(0.2)).Warnings, "a hook may compress")
	plan := samplePlan()
	plan.MaxError = 2
	assert.Empty(t, aggregate(plan, far(0.99)).Warnings, "it was asked for")
	plan = samplePlan()
	plan.NCCLFutures = true
	assert.NotContains(t, aggregate(plan, far(0.99)).Warnings[0], "--nccl-futures")
	ranks := far(0.99)
	for _, rank := range ranks {
		rank.HookName = "torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook.powerSGD_hook"
	}
	assert.Empty(t, aggregate(samplePlan(), ranks).Warnings, "random gradients have no low rank")
}

func TestAHookThatWasWrittenForNCCL(t *testing.T) {
	r := shared(t, cli.ExitOK, "hooks.py:first_of_nccl")
	require.Len(t, r.Warnings, 1)
	assert.Contains(t, r.Warnings[0], "--nccl-futures")
	r = shared(t, cli.ExitOK, "hooks.py:first_of_nccl", "--nccl-futures", "--max-error", "1e-6")
	assert.Empty(t, r.Warnings)

	r = checked(t, cli.ExitFailed, "hooks.py:indexes_for_nccl")
	assert.Equal(t, "future_failed", r.Failure.Code)
	assert.Contains(t, r.Failure.Message, "IndexError")
	assert.Contains(t, r.Failure.Hint, "--nccl-futures")
	r = checked(t, cli.ExitFailed, "hooks.py:wants_state")
	assert.Contains(t, r.Failure.Hint, "--state")
	r = checked(t, cli.ExitFailed, "hooks.py:raises")
	assert.Empty(t, r.Failure.Hint)

	trained := clitest.Command(t, nil, "train", "-n", "2", "--hook", "hooks.py:first_of_nccl", "--nccl-futures", "--epochs", "1")
	assert.Equal(t, cli.ExitOK, trained.Code, trained.Stderr)
	// This one fails where a rank does not get the option.
	trained = clitest.Command(t, nil, "train", "-n", "2", "--hook", "hooks.py:indexes_for_nccl", "--nccl-futures", "--epochs", "1")
	assert.Equal(t, cli.ExitOK, trained.Code, trained.Stderr)
	timed := clitest.Command(t, []string{"CXX=/nowhere/g++"}, "bench", "hooks.py:first_of_nccl", "-n", "2", "--nccl-futures", "--scale", "0.02", "--sizes", "4KiB", "--params", "2", "--cache", t.TempDir())
	assert.Equal(t, cli.ExitOK, timed.Code, timed.Stderr)
}
