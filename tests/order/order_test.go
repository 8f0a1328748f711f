package order_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"pyhook/ddp"
	"pyhook/tests/deep"
	"pyhook/tests/ranks"
)

func powerSGD(steps int) run {
	return run{Hook: "powersgd", State: "powersgd", Args: map[string]any{"start_powerSGD_iter": 2}, Layers: 8, Size: 512, CapMB: 2, Steps: steps}
}

// all runs the same jobs on n ranks and returns what rank 0 reported, after
// checking that the ranks agree.
func all(t *testing.T, n int, runs []run) []outcome {
	t.Helper()
	job := ranks.RunOptions(t, ranks.Options{N: n, Case: "train", Args: runs, Timeout: time.Duration(deep.Times(t, 1)+2) * time.Minute})
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
			steps := deep.Times(t, 40)
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
	schedules := min(deep.Times(t, 4), 100)
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
