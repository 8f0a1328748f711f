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
	got := byRank(t, n, runs)
	for rank, of := range got {
		for i, o := range of {
			assert.Equal(t, got[0][i].SHA, o.SHA, "rank %d, run %d", rank, i)
		}
	}
	return got[0]
}

// byRank is all for hooks that leave each rank gradients of its own.
func byRank(t *testing.T, n int, runs []run) [][]outcome {
	t.Helper()
	job := ranks.Shared(t, ranks.Options{N: n, Case: "train", Args: runs, Timeout: time.Duration(deep.Times(t, 1)+2) * time.Minute})
	got := make([][]outcome, n)
	for rank := range n {
		got[rank] = ranks.Result[[]outcome](t, job, rank)
	}
	return got
}

// The configuration that hangs or aborts stock DDP on gloo.
func TestPowerSGDOverManyBucketsIsTheSerialRunBitForBit(t *testing.T) {
	for _, n := range []int{2, 4} {
		t.Run(fmt.Sprint(n, " ranks"), func(t *testing.T) {
			steps := deep.Times(t, 40)
			if n == 4 {
				steps /= 4
			}
			plain, serial, ordered := powerSGD(steps), powerSGD(steps), powerSGD(steps)
			plain.Plain, ordered.Order = true, ddp.OrderOrdered
			got := all(t, n, []run{plain, serial, ordered})
			assert.Equal(t, got[0].SHA, got[1].SHA)
			assert.Equal(t, got[0].SHA, got[2].SHA)
			assert.Equal(t, "serial", got[1].Order, "the default")
			assert.Greater(t, got[1].Buckets, 4)
			t.Logf("%d steps, %d buckets, ms a step: waited for on gloo's futures %.1f, the default %.1f, ordered %.1f; ordered to the default %.2f, the default to gloo's futures %.2f",
				steps, got[1].Buckets, got[0].MsPerStep, got[1].MsPerStep, got[2].MsPerStep, got[2].MsPerStep/got[1].MsPerStep, got[1].MsPerStep/got[0].MsPerStep)
		})
	}
}

func TestRandomDelaysChangeNoBit(t *testing.T) {
	schedules := min(deep.Times(t, 4), 100)
	var runs []run
	for _, hook := range []run{powerSGD(6), {Hook: "testdata/hooks.py:chained", Layers: 8, Size: 64, CapMB: 0.01, Steps: 6}} {
		hook.Size, hook.CapMB = 64, 0.01
		serial := hook
		serial.Order = ddp.OrderSerial
		runs = append(runs, serial)
		for seed := range schedules {
			delayed := hook
			delayed.Delays, delayed.Order = uint64(seed+1), ddp.OrderOrdered
			runs = append(runs, delayed)
		}
	}
	got := all(t, 2, runs)
	for i, o := range got {
		assert.Equal(t, got[i/(schedules+1)*(schedules+1)].SHA, o.SHA, "run %d", i)
	}
}
