package order_test

import (
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/ddp"
	"pyhook/tests/ranks"
)

// deep is how many times as much is run: PYHOOK_DEEP=50 makes the 2,000 steps
// and 100 schedules that the claims in docs/decisions/0006 rest on.
func deep(t *testing.T) int {
	t.Helper()
	text := os.Getenv("PYHOOK_DEEP")
	if text == "" {
		return 1
	}
	n, err := strconv.Atoi(text)
	require.NoError(t, err, "PYHOOK_DEEP")
	return n
}

func powerSGD(steps int) run {
	return run{Hook: "powersgd", State: "powersgd", Args: map[string]any{"start_powerSGD_iter": 2}, Layers: 8, Size: 512, CapMB: 2, Steps: steps}
}

// all runs the same jobs on n ranks and returns what rank 0 reported, after
// checking that the ranks agree.
func all(t *testing.T, n int, runs []run) []outcome {
	t.Helper()
	job := ranks.RunOptions(t, ranks.Options{N: n, Case: "train", Args: runs, Timeout: time.Duration(2+deep(t)) * time.Minute})
	first := ranks.Result[[]outcome](t, job, 0)
	for rank := 1; rank < n; rank++ {
		for i, o := range ranks.Result[[]outcome](t, job, rank) {
			assert.Equal(t, first[i].SHA, o.SHA, "rank %d, run %d", rank, i)
		}
	}
	return first
}

// The configuration that hangs or aborts stock DDP on gloo.
func TestPowerSGDOverManyBucketsIsTheSerialRunBitForBit(t *testing.T) {
	for _, n := range []int{2, 4} {
		t.Run(fmt.Sprint(n, " ranks"), func(t *testing.T) {
			steps := 40 * deep(t)
			if n == 4 {
				steps /= 4
			}
			serial, ordered := powerSGD(steps), powerSGD(steps)
			serial.Order, ordered.Order = ddp.Serial, ddp.Auto
			got := all(t, n, []run{serial, ordered})
			assert.Equal(t, got[0].SHA, got[1].SHA)
			assert.Equal(t, "ordered", got[1].Order)
			assert.Greater(t, got[1].Buckets, 4)
			t.Logf("%d steps, %d buckets: serial %.1f ms a step, ordered %.1f, ratio %.2f",
				steps, got[1].Buckets, got[0].MsPerStep, got[1].MsPerStep, got[1].MsPerStep/got[0].MsPerStep)
		})
	}
}

func TestRandomDelaysChangeNoBit(t *testing.T) {
	schedules := min(4*deep(t), 100)
	var runs []run
	for _, hook := range []run{powerSGD(6), {Hook: "testdata/hooks.py:chained", Layers: 8, Size: 64, CapMB: 0.01, Steps: 6}} {
		hook.Size, hook.CapMB = 64, 0.01
		serial := hook
		serial.Order = ddp.Serial
		runs = append(runs, serial)
		for seed := range schedules {
			delayed := hook
			delayed.Delays = uint64(seed + 1)
			runs = append(runs, delayed)
		}
	}
	got := all(t, 2, runs)
	for i, o := range got {
		assert.Equal(t, got[i/(schedules+1)*(schedules+1)].SHA, o.SHA, "run %d", i)
	}
}
