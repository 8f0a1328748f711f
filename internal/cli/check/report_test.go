package check

import (
	"bytes"
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/internal/cli"
	"pyhook/internal/cli/clitest"
	"pyhook/internal/hookspec"
	"pyhook/internal/report"
)

func samplePlan() *checkPlan {
	return &checkPlan{Spec: hookspec.Spec{Hook: "sample", State: "powersgd", StateArgs: []string{"start_powerSGD_iter=2"}},
		Buckets: [][][]int64{{{10, 64}, {10}}, {{1000}}}, Steps: 2, DType: "float32", Seed: 1, Backend: "gloo", Timeout: time.Second}
}

// sampleRanks are two ranks that did well.
func sampleRanks() []*rankReport {
	var ranks []*rankReport
	for rank := range 2 {
		r := &rankReport{Rank: rank, Size: 2, Python: "3.11.2", Torch: "2.15.0", HookName: "pkg.sample_hook", Backend: "gloo"}
		for step := range 2 {
			r.Calls = append(r.Calls, []callRecord{
				{Nanos: int64(1e6 + 1e5*float64(step+rank)), Digest: "a", DType: "float32", Error: deviation{3e-8 / float64(step+1), 2e-8 / float64(step+1)}, OwnMemory: true},
				{Nanos: 123e3, Digest: "b", DType: "float16", Error: deviation{5e-4, 3e-4}},
			})
		}
		r.Order, r.Nanos, r.Sent = "serial", []int64{1.5e6, 1.7e6}, []uint64{7600, 6000}
		r.Compared = &comparison{phaseRecord: phaseRecord{Order: "ordered", Calls: cloneCalls(r.Calls), Nanos: []int64{1.2e6, 1.1e6}}}
		ranks = append(ranks, r)
	}
	return ranks
}

func cloneCalls(calls [][]callRecord) [][]callRecord {
	var all [][]callRecord
	for _, step := range calls {
		all = append(all, append([]callRecord{}, step...))
	}
	return all
}

func checkText(r *checkReport) string {
	var out bytes.Buffer
	r.print(report.New(&out), report.New(&out))
	return out.String()
}

func TestAHookThatKeepsTheContract(t *testing.T) {
	r := aggregate(samplePlan(), sampleRanks())
	assert.True(t, r.OK)
	assert.Equal(t, cli.ExitOK, r.exitCode())
	first := r.Buckets[0]
	assert.EqualValues(t, 12_000, *r.BytesLast, "both ranks, last step")
	assert.EqualValues(t, 27_200, *r.BytesTotal)
	assert.Equal(t, deviation{3e-8, 2e-8}, *first.ErrorWorst)
	assert.Equal(t, deviation{1.5e-8, 1e-8}, *first.ErrorLast)
	assert.InDelta(t, 1.1e-3, first.MedianSeconds, 1e-9)
	assert.True(t, first.OwnMemory)
	assert.False(t, r.Buckets[1].OwnMemory)
	clitest.Golden(t, "check_ok.txt", checkText(r))
}

func TestRanksThatDifferFail(t *testing.T) {
	ranks := sampleRanks()
	ranks[1].Calls[1][0].Digest = "other"
	for _, rank := range ranks {
		rank.Legacy = []string{"get_tensor", "[tensor] result"}
		rank.HookName = "torch.distributed.algorithms.ddp_comm_hooks.debugging_hooks.noop_hook"
		rank.NoBytes = "bytes on the wire cannot be counted here"
	}
	r := aggregate(samplePlan(), ranks)
	assert.Equal(t, cli.ExitFailed, r.exitCode())
	assert.Equal(t, 1, r.Buckets[0].FirstUnlike)
	assert.True(t, r.Buckets[1].Alike)
	assert.Nil(t, r.BytesLast)
	clitest.Golden(t, "check_differ.txt", checkText(r))
}

func TestResultsThatAreNotFiniteFailAndAreJSON(t *testing.T) {
	ranks := sampleRanks()
	ranks[1].Calls[0][1].NonFinite = 3
	r := aggregate(samplePlan(), ranks)
	assert.Equal(t, []string{"bucket 1: not valid: 3 of 1000 elements are not finite (rank 1, step 0)"}, r.Problems)
	assert.Nil(t, r.Buckets[1].ErrorWorst)
	_, err := json.Marshal(r)
	require.NoError(t, err)
}

func TestTheErrorIsJudgedOnlyWhenAsked(t *testing.T) {
	plan := samplePlan()
	plan.MaxError = 1e-3
	assert.True(t, aggregate(plan, sampleRanks()).OK)
	plan.MaxError = 1e-4
	r := aggregate(plan, sampleRanks())
	assert.Equal(t, []string{"bucket 1: relative error 0.0005 is more than --max-error 0.0001"}, r.Problems)
}

func TestTheRootCauseIsNotTheRankThatSawItGo(t *testing.T) {
	own := &checkFailure{Code: "hook_raised", Rank: 1, Message: "boom", At: 20}
	saw := &checkFailure{Code: "peer", Rank: 0, Message: "RuntimeError: Connection closed by peer [127.0.0.1]", At: 10}
	dead := &checkFailure{Code: codeDied, Rank: 2, Message: "rank 2 crashed", At: 5}
	stopped := &checkFailure{Code: codeStopped, Rank: 3, Message: "stopped", At: 1}
	root := func(failures ...*checkFailure) *checkFailure {
		var ranks []*rankReport
		for _, f := range failures {
			ranks = append(ranks, &rankReport{Failure: f})
		}
		return rootFailure(ranks)
	}
	same := func(want, got *checkFailure) {
		without := *want
		without.At = 0
		assert.Equal(t, &without, got)
	}
	same(own, root(stopped, saw, dead, own))
	same(dead, root(stopped, saw, dead))
	same(saw, root(nil, stopped, saw))
	assert.Nil(t, root(nil, nil))
	earlier := *own
	earlier.At, earlier.Rank = 2, 0
	assert.Equal(t, 0, root(own, &earlier).Rank)
}

func TestAHangSaysWhereEveryRankIs(t *testing.T) {
	ranks := sampleRanks()
	ranks[0].Failure = &checkFailure{Code: codeTimeout, Rank: 0, Message: "hook sample, rank 0, bucket 0: not done after 1s (step 0)", Hint: "do this", At: 1}
	ranks[1].Failure = &checkFailure{Code: codeStopped, Rank: 1, Message: "stopped while in the hook, step 0, bucket 0", Traceback: "Thread 1:\n  File \"x.py\", line 3 in f", At: 2}
	r := aggregate(samplePlan(), ranks)
	assert.Equal(t, cli.ExitFailed, r.exitCode())
	assert.Equal(t, "error: hook sample, rank 0, bucket 0: not done after 1s (step 0)\n"+
		"  rank 1: stopped while in the hook, step 0, bucket 0\n    Thread 1:\n      File \"x.py\", line 3 in f\nhint: do this\n", checkText(r))
}

func TestCrashedRanksAreFoundInTheirOutput(t *testing.T) {
	var out bytes.Buffer
	o := newRankOutput(&out)
	for _, line := range []string{"[rank 0] [Gloo] Rank 0 is connected to 1 peer ranks.\n", "[rank 0] goroutine 1 talk [of a hook]:\n",
		"[rank 1] SIGSEGV: segmentation violation\n", "[rank 1] goroutine 6 gp=0x3 m=9 mp=0x3 [syscall]:\n", "[rank 1] runtime.cgocall(0x5)\n", "[rank 0] more\n"} {
		_, err := o.Write([]byte(line))
		require.NoError(t, err)
	}
	assert.Equal(t, "[rank 0] goroutine 1 talk [of a hook]:\n[rank 1] SIGSEGV: segmentation violation\n[rank 0] more\n", out.String())
	assert.Equal(t, "SIGSEGV: segmentation violation", o.crashed(1))
	assert.Empty(t, o.crashed(0))
}
