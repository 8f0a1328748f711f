package order_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/ddp"
)

// ofHook is a run over several buckets of a hook of testdata/hooks.py, or another one.
func ofHook(spec string) run {
	return run{Hook: spec, Layers: 4, Size: 32, CapMB: 0.004, Steps: 6}
}

// Hooks that keep something between body and callback. What is right is what they
// give when each bucket is waited for on gloo's own futures.
func TestReducerWaitRunsACallsCallbacksBeforeTheNextCall(t *testing.T) {
	quantised := ofHook("testdata/hooks.py:quantised")
	quantised.State = "testdata/hooks.py:State"
	cold := ofHook("powersgd")
	cold.State, cold.Args = "powersgd", map[string]any{"start_powerSGD_iter": 2, "warm_start": false}
	batched := cold
	batched.Args = map[string]any{"start_powerSGD_iter": 2, "warm_start": false, "batch_tensors_with_same_shape": true}
	cases := []run{quantised, cold, batched}
	var runs []run
	for _, c := range cases {
		plain, late := c, c
		plain.Plain = true
		late.Delays = 3
		runs = append(runs, plain, c, late)
	}
	outcomes := all(t, 2, runs)
	for i, c := range cases {
		t.Run(fmt.Sprint(c.Hook, " ", c.Args), func(t *testing.T) {
			got := outcomes[3*i:]
			assert.Empty(t, got[0].Err)
			assert.Equal(t, "serial", got[1].Order)
			assert.Greater(t, got[1].Buckets, 3)
			assert.Equal(t, got[0].SHA, got[1].SHA)
			assert.Equal(t, got[0].SHA, got[2].SHA, "with delays")
		})
	}
}

// That the cases above do tell the orders apart.
func TestReducerWaitOrderedMixesUpTheStateOfAHookThatKeepsSome(t *testing.T) {
	serial := ofHook("testdata/hooks.py:quantised")
	serial.State = "testdata/hooks.py:State"
	ordered := serial
	ordered.Order = ddp.OrderOrdered
	got := all(t, 2, []run{serial, ordered})
	assert.Empty(t, got[1].Err)
	assert.NotEqual(t, got[0].SHA, got[1].SHA)
}

// proven are python/pyhook/_runtime/order.py's, and what PyTorch's wrappers make of them.
var proven = []string{
	"allreduce", "fp16", "bf16", "noop", "quantize_pertensor", "quantize_perchannel", "post_localsgd",
	"fp16_wrapper(allreduce)", "bf16_wrapper(allreduce)", "fp16_wrapper(noop)", "bf16_wrapper(fp16)", "fp16_wrapper(quantize_pertensor)",
}

// The same bits, or on a torch that cannot run the hook on a CPU the same error.
func TestReducerWaitOrderedIsSerialForEachProvenHook(t *testing.T) {
	var runs []run
	for _, spec := range append(proven, "testdata/hooks.py:independent") {
		c := ofHook(spec)
		if spec == "post_localsgd" {
			c.State, c.Args = "post_localsgd", map[string]any{"subgroup": nil, "start_localSGD_iter": 3, "post_local_gradient_allreduce": false}
		}
		serial, late := c, c
		serial.Order = ddp.OrderSerial
		late.Delays = 5
		runs = append(runs, serial, c, late)
	}
	for rank, got := range byRank(t, 2, runs) {
		for i := 0; i < len(runs); i += 3 {
			spec, serial, ordered, late := runs[i].Hook, got[i], got[i+1], got[i+2]
			if serial.Err != "" {
				t.Logf("rank %d: %s: %s", rank, spec, serial.Err)
			} else {
				assert.Equal(t, "ordered", ordered.Order, spec)
				assert.Greater(t, ordered.Buckets, 3, spec)
			}
			assert.Equal(t, serial.Err, ordered.Err, spec)
			assert.Equal(t, serial.Err, late.Err, spec)
			assert.Equal(t, serial.SHA, ordered.SHA, spec)
			assert.Equal(t, serial.SHA, late.SHA, spec)
		}
		require.Empty(t, got[0].Err, "allreduce runs on every torch")
	}
}

// Whole numbers: the mean is exact, however it is computed.
func TestReducerWaitTrainsHooksThatAskTheirFutures(t *testing.T) {
	reference := ofHook("testdata/hooks.py:mean")
	reference.Whole = true
	runs := []run{reference}
	for _, name := range []string{"polls_done", "polls_collect_all", "polls_a_flag", "polls_its_own_future", "reads_the_value",
		"waits_for_its_own_work", "completes_with_the_last"} {
		for _, order := range []ddp.Order{ddp.OrderAuto, ddp.OrderOrdered} {
			c := ofHook("testdata/hooks.py:" + name)
			c.Whole, c.Order, c.Delays = true, order, 7
			c.List = name == "completes_with_the_last"
			runs = append(runs, c)
		}
	}
	got := all(t, 2, runs)
	for i, o := range got {
		assert.Empty(t, o.Err, runs[i].Hook)
		assert.Equal(t, got[0].SHA, o.SHA, "%s, %s", runs[i].Hook, o.Order)
	}
}
