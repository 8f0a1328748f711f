package check

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/internal/cli"
	"pyhook/internal/cli/clitest"
)

var orderState = []string{"--state", "overlap_hooks.py:State"}

// TestCheckFindsAHookThatOverlappingBreaks: the hook trains wrongly, and check saw
// nothing of it while it ran bucket by bucket.
func TestCheckFindsAHookThatOverlappingBreaks(t *testing.T) {
	args := append([]string{"overlap_hooks.py:quantising"}, orderState...)
	r := shared(t, cli.ExitOK, append(args, "--order", "serial", "--max-error", "1e-3")...)
	assert.Contains(t, checkText(r), "note: ordered, which overlaps more, is not safe for this hook: bucket 0 gets other bits in step 1 (relative error")
	assert.Equal(t, "serial", r.Order.Judged)
	assert.Equal(t, "ordered", r.Order.Compared)
	require.NotNil(t, r.Order.SameBits)
	assert.False(t, *r.Order.SameBits)
	assert.Contains(t, r.Order.Why, "in step 1")

	r = shared(t, cli.ExitFailed, append(args, "--order", "ordered")...)
	assert.Equal(t, "serial", r.Order.Compared)
	assert.Contains(t, r.Problems[0], "ordered gives other results than serial, which is NCCL's order: bucket 0 gets other bits in step 1")
	assert.Contains(t, r.Hint, "between its body and its callbacks")
	assert.Greater(t, r.Buckets[0].ErrorWorst.Max, 1e-2)
}

func TestCheckSaysWhatOverlappingGains(t *testing.T) {
	var r *checkReport
	for _, order := range []string{"ordered", "serial"} {
		r = shared(t, cli.ExitOK, "powersgd", "--order", order)
		assert.Equal(t, order, r.Order.Judged)
		require.NotNil(t, r.Order.SameBits)
		assert.True(t, *r.Order.SameBits)
		require.NotNil(t, r.Order.StepSeconds)
		require.NotNil(t, r.Order.OtherStep)
		assert.Positive(t, *r.Order.StepSeconds)
		assert.Positive(t, *r.Order.OtherStep)
		require.NotNil(t, r.BytesLast)
	}
	assert.Regexp(t, `order: serial, which is NCCL's. Ordered gives the same bits in 3 steps, so ordered is safe for this hook \(ddp.Options.Order: OrderOrdered\).\n`+
		`  A step takes [\d.]+ .?s in serial order and [\d.]+ .?s in ordered order \(median of 2 steps; --steps 20 measures more\)`, checkText(r))
	one := shared(t, cli.ExitOK, "allreduce", "--sizes", "100", "--order", "serial", "--steps", "1")
	assert.Contains(t, checkText(one), "with one bucket there is nothing to overlap")
}

// TestCheckFailsWhereTrainFails: as the command trains, so it judges.
func TestCheckFailsWhereTrainFails(t *testing.T) {
	args := []string{"powersgd", "--state-arg", "warm_start=false"}
	r := checked(t, cli.ExitFailed, append(args, "--order", "ordered")...)
	assert.Contains(t, r.Failure.Message, "KeyError")
	assert.Contains(t, r.Failure.Hint, "--order serial")
	checked(t, cli.ExitOK, append(args, "--order", "serial")...)

	args = append([]string{"overlap_hooks.py:raises_overlapped"}, orderState...)
	r = checked(t, cli.ExitFailed, append(args, "--order", "ordered")...)
	assert.Equal(t, []any{"hook_raised", 1}, []any{r.Failure.Code, r.Failure.Step})
	assert.Contains(t, r.Failure.Message, "another call is under way")
	assert.Contains(t, r.Failure.Hint, "--order serial")
	train := clitest.Command(t, nil, "train", "--hook", args[0], "--state", args[2], "--epochs", "1", "--order", "ordered")
	assert.Equal(t, cli.ExitRankDied, train.Code, train.Stderr)
	assert.Contains(t, train.Stderr, "another call is under way")
	train = clitest.Command(t, nil, "train", "--hook", args[0], "--state", args[2], "--epochs", "1", "--order", "serial", "--json")
	assert.Equal(t, cli.ExitOK, train.Code, train.Stderr)
	assert.Contains(t, train.Stdout, `"order": "serial"`)
}

// TestCheckTakesFuturesThatWaitForTheLastBucket: such a hook trains rightly, and
// check refused it while it ran bucket by bucket.
func TestCheckTakesFuturesThatWaitForTheLastBucket(t *testing.T) {
	r := shared(t, cli.ExitOK, "overlap_hooks.py:all_at_the_last", "--order", "ordered", "--timeout", "5s", "--max-error", "1e-6")
	assert.True(t, r.Buckets[2].Valid && r.Buckets[2].Alike)
}

// TestARunInAnotherOrderMayEndInAnyWay: what was judged stays judged.
func TestARunInAnotherOrderMayEndInAnyWay(t *testing.T) {
	for hook, want := range map[string]struct{ code, message string }{
		"raises_overlapped": {"hook_raised", "another call is under way"},
		"dies_overlapped":   {codeDied, "exited with code 7, in the hook (step 1, bucket 1)"},
		"sleeps_overlapped": {codeTimeout, "not done after 2s (step 1)"},
	} {
		r := checked(t, cli.ExitOK, append([]string{"overlap_hooks.py:" + hook, "--order", "serial", "--timeout", "2s"}, orderState...)...)
		require.Len(t, r.Buckets, 3, hook)
		require.NotNil(t, r.Order.Failure, hook)
		assert.Equal(t, want.code, r.Order.Failure.Code, hook)
		assert.Contains(t, r.Order.Failure.Message, want.message, hook)
		assert.False(t, *r.Order.SameBits, hook)
		assert.Nil(t, r.Failure, hook)
	}
	results := joined(t, append([]string{"overlap_hooks.py:raises_overlapped", "--order", "serial"}, orderState...)...)
	for rank, r := range results {
		assert.Equal(t, cli.ExitOK, r.Code, "rank %d: %s", rank, r.Stderr)
		assert.Empty(t, r.errorFile)
	}
	assert.Contains(t, results[0].Stdout, "note: ordered, which overlaps more, is not safe for this hook: it fails in step 1")
	assert.Contains(t, results[0].Stdout, "ok: overlap_hooks.py:raises_overlapped keeps the contract")
}

func TestCheckDoesNotJudgeHooksThatNeverGiveTheSameBits(t *testing.T) {
	r := shared(t, cli.ExitOK, "overlap_hooks.py:never_twice")
	assert.Nil(t, r.Order.SameBits)
	assert.Contains(t, r.Order.Why, "outside of its state")
	assert.Contains(t, checkText(r), "safe is not known: two runs in serial order do not give the same bits either")
}

// TestBucketsAreMadeAnewAsInDDP: see test_judge.py for what stock DDP does.
func TestBucketsAreMadeAnewAsInDDP(t *testing.T) {
	args := append([]string{"overlap_hooks.py:kept_by_index", "--order", "serial"}, orderState...)
	r := checked(t, cli.ExitFailed, args...)
	assert.Equal(t, []any{"hook_raised", 1, 0}, []any{r.Failure.Code, r.Failure.Step, r.Failure.Bucket})
	assert.Contains(t, r.Failure.Hint, "DistributedDataParallel")
	assert.Contains(t, r.Failure.Hint, "--rebuild=false")
	shared(t, cli.ExitOK, append(args, "--rebuild=false")...)

	shared(t, cli.ExitOK, "allreduce", "--max-error", "1e-6", "--rebuild=false")
}

func TestCheckWarnsOfWhatStockRefuses(t *testing.T) {
	r := shared(t, cli.ExitOK, "overlap_hooks.py:annotated")
	assert.Contains(t, r.Stock, "return annotation should be torch.futures.Future[torch.Tensor]")
	assert.Contains(t, shared(t, cli.ExitOK, "overlap_hooks.py:instance").Stock, "it has no name")
	assert.Empty(t, shared(t, cli.ExitOK, "allreduce").Stock)
	assert.Regexp(t, `note: DistributedDataParallel of torch [\d.]+\S* refuses this hook, which runs here: Communication hook: return annotation`, checkText(r))
}

func TestRanksMayDifferWhereThatIsSaid(t *testing.T) {
	r := shared(t, cli.ExitOK, "noop", "--ranks-may-differ")
	assert.False(t, r.Buckets[0].Alike, "it is told, and not judged")
	assert.Contains(t, checkText(r), "whether they are alike was not judged (--ranks-may-differ)")
}

func TestOrdersThatAreNone(t *testing.T) {
	for _, args := range [][]string{{"check", "allreduce", "--order", "nccl"}, {"train", "--order", "nccl"}, {"check", "allreduce", "--rebuild", "--steps", "1"}} {
		r := clitest.Command(t, nil, args...)
		assert.Equal(t, cli.ExitUsage, r.Code, args)
	}
	r := clitest.Command(t, nil, "check", "allreduce", "--order", "nccl")
	assert.Contains(t, r.Stderr, `"nccl" is no order of buckets: it is one of auto, serial, ordered, overlapped`)
	r = clitest.Command(t, nil, "check", "go:allreduce", "--order", "ordered")
	assert.Contains(t, r.Stderr, "no c10d.ChainedHook")
}

func TestCheckCallsHooksOnPythonsMainThreadInBothOrders(t *testing.T) {
	for _, order := range []string{"serial", "ordered"} {
		r := shared(t, cli.ExitOK, "connection.py:logged", "--order", order)
		assert.Equal(t, order, r.Order.Judged)
		assert.Nil(t, r.Order.Failure)
		require.NotNil(t, r.Order.SameBits)
		assert.True(t, *r.Order.SameBits)
	}
}
