package check

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/internal/cli"
	"pyhook/internal/cli/clitest"
)

func TestAnOrderThatGivesOtherBitsIsAProblemOnlyWhereItIsJudged(t *testing.T) {
	ranks := sampleRanks()
	ranks[1].Compared.Calls[1][0].Digest = "other"
	r := aggregate(samplePlan(), ranks)
	assert.True(t, r.OK, "serial is judged, and right")
	require.NotNil(t, r.Order.SameBits)
	assert.False(t, *r.Order.SameBits)
	assert.Contains(t, r.Order.Why, "bucket 0 gets other bits in step 1")
	for _, rank := range ranks {
		rank.Order, rank.Compared.Order = "ordered", "serial"
	}
	r = aggregate(samplePlan(), ranks)
	assert.Equal(t, cli.ExitFailed, r.exitCode())
	assert.Contains(t, r.Problems[0], "ordered gives other results than serial, which is NCCL's order")
	assert.Contains(t, r.Hint, "--order serial")
	clitest.Golden(t, "check_order.txt", checkText(r))
	for _, rank := range ranks {
		rank.Compared.Repeats, rank.Compared.Repeatable = true, rank.Rank == 0
	}
	r = aggregate(samplePlan(), ranks)
	assert.True(t, r.OK, "nothing is known")
	assert.Nil(t, r.Order.SameBits)
}

func TestARunInAnotherOrderThatFailsIsNoFailureOfTheHook(t *testing.T) {
	ranks := sampleRanks()
	ranks[0].Compared = nil // of a rank that another one's report does not tell of
	ranks[1].Compared.Running = true
	ranks[1].fail(&checkFailure{Code: "hook_raised", Rank: 1, Step: 1, Bucket: 0, Message: "boom"}, false)
	r := aggregate(samplePlan(), ranks)
	assert.True(t, r.OK)
	assert.Equal(t, "boom", r.Order.Failure.Message)
	assert.Contains(t, checkText(r), "note: ordered, which overlaps more, is not safe for this hook: it fails in step 1, bucket 0: boom\n")
	for _, rank := range ranks {
		rank.Order = "ordered"
	}
	ranks[1].Compared.Order = "serial"
	assert.Contains(t, checkText(aggregate(samplePlan(), ranks)), "note: serial, which is NCCL's order, does not work for this hook, and ordered does: it fails")
}
