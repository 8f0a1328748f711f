package simdevice_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"

	"pyhook/ddp"
	"pyhook/tests/ranks"
)

// quiet are scenarios in which no byte of a gradient comes to the host or from it, and nothing waits for
// the device.
var quiet = map[string]scenario{
	"no hook":                {},
	"no hook, views":         {views: true},
	"allreduce":              {hook: "allreduce"},
	"allreduce in Go":        {goHook: allReduce},
	"fp16":                   {hook: "fp16"},
	"fp16 in Go":             {goHook: fp16},
	"bf16, overlapped":       {hook: "bf16", options: ddp.Options{Order: ddp.OrderOverlapped}},
	"unused":                 {hook: "allreduce", unused: true},
	"unused found":           {hook: "allreduce", unused: true, options: ddp.Options{Unused: ddp.UnusedFind}},
	"rolled back if need be": {hook: "allreduce", options: ddp.Options{Rollback: true}},
	"callbacks":              {hook: "hooks:tripled"},
	"Join":                   {hook: "allreduce", options: ddp.Options{Join: true}},
}

func TestReducer_noHostTransfers(t *testing.T) {
	t.Parallel() // it waits more than it computes
	job := run(t, "count", settings{})
	for rank := range 2 {
		counts := ranks.Result[map[string][]int64](t, job, rank)
		assert.Len(t, counts, len(quiet)+1)
		assert.Positive(t, counts[looking][1], "bytes to the host")
		delete(counts, looking)
		for name, n := range counts {
			t.Run(fmt.Sprintf("%s/rank %d", name, rank), func(t *testing.T) {
				assert.Equal(t, []int64{0, 0, 0}, n, "bytes from the host, to the host; waits")
			})
		}
	}
}

// looking is a scenario that is counted, too, and has the device waited for: one reads whether a result
// is finite.
const looking = "looked for infinities"

func count(ctx context.Context, rank *ranks.Rank) error {
	t, err := join(ctx, rank)
	if err != nil {
		return err
	}
	counts := map[string][]int64{}
	for name, s := range sorted(quiet) {
		if counts[name], err = t.countStep(ctx, s); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	counts[looking], err = t.countStep(ctx, scenario{host: true, options: ddp.Options{CheckFinite: true}})
	return errors.Join(err, rank.Report(counts))
}

// countStep is what the second step of a scenario has of transfers and waits, from the first mark on.
func (t *trainer) countStep(ctx context.Context, s scenario) ([]int64, error) {
	g, err := t.begin(ctx, s)
	if err != nil {
		return nil, err
	}
	defer g.close()
	if err := g.step(ctx, 0); err != nil { // makes what a hook keeps
		return nil, err
	}
	if _, err := t.call("produce", g.source, g.own, 1, 0, nil); err != nil {
		return nil, err
	}
	before, err := t.call("counted")
	if err != nil {
		return nil, err
	}
	if err := g.markAll(1); err != nil {
		return nil, err
	}
	if _, err := g.r.WaitStream(ctx); err != nil {
		return nil, err
	}
	after, err := t.call("counted")
	if err != nil {
		return nil, err
	}
	var counts []int64
	for i, n := range after.([]any) {
		counts = append(counts, n.(int64)-before.([]any)[i].(int64))
	}
	return counts, nil
}
