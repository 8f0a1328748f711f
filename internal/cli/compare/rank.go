package compare

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"pyhook/internal/cli"
	"pyhook/internal/compare"
	"pyhook/launch"
	"pyhook/pyhook"
)

const (
	rankCommand = "__compare-rank"
	// startLimit bounds what comes before and between hook calls: importing torch on a busy machine
	// is slow, and so is comparing a bucket of gigabytes.
	startLimit = 5 * time.Minute
	// callGrace is what a call that was interrupted at its time limit may take to end.
	callGrace = 5 * time.Second
)

// rankAnswer is what a rank writes in the end.
type rankAnswer struct {
	Result  *compare.RankResult
	Failure *rankFailure
}

// RankCommand returns the hidden command that is one rank of a comparison.
func RankCommand() *cobra.Command { return cli.RankCommand(rankCommand, runRank) }

func runRank(ctx context.Context, r *cli.Rank, plan *compare.Plan) error {
	var close func() error
	answer := supervised(r.Rank, plan, func(doing func(string)) (result *compare.RankResult, err error) {
		result, close, err = measureAlone(ctx, r, plan, doing)
		return result, err
	})
	if err := r.Answer(answer); err != nil {
		return err
	}
	if answer.Failure != nil {
		// Python is left as it is: destroying a group with a failed collective can hang.
		return cli.Exit(cli.ExitFailed)
	}
	return close()
}

// measureAlone starts Python, joins the other ranks and measures one hook. close ends Python.
func measureAlone(ctx context.Context, r *cli.Rank, plan *compare.Plan, doing func(string)) (*compare.RankResult, func() error, error) {
	doing("starting Python")
	rt, err := cli.StartRuntime(ctx, r.Python)
	if err != nil {
		return nil, nil, err
	}
	group, err := join(ctx, rt, r.World, plan.Timeout, doing)
	if err != nil {
		return nil, nil, err
	}
	result, err := compare.Measure(ctx, rt, group, plan, doing)
	if err != nil {
		return nil, nil, err
	}
	doing("waiting for the other ranks to finish")
	if err := group.Barrier(ctx); err != nil {
		return nil, nil, err
	}
	return result, func() error {
		group.Close()
		return rt.Close()
	}, nil
}

func join(ctx context.Context, rt *pyhook.Runtime, world launch.World, timeout time.Duration, doing func(string)) (*pyhook.TorchGroup, error) {
	doing("waiting for the other ranks to join")
	return rt.InitProcessGroup(ctx, pyhook.GroupConfig{Backend: "gloo", Rank: world.Rank, Size: world.Size, Timeout: max(timeout, startLimit) + time.Minute})
}

// supervised runs work, and gives up when a part of it takes too long: Python may be stuck for good
// then, so the process must end.
func supervised(rank int, plan *compare.Plan, work func(doing func(string)) (*compare.RankResult, error)) *rankAnswer {
	var mu sync.Mutex
	activity, limit, since := "starting", startLimit, time.Now()
	doing := func(what string) {
		mu.Lock()
		defer mu.Unlock()
		activity, limit, since = what, startLimit, time.Now()
		if what == "" {
			activity, limit = "the hook's call", plan.Timeout+callGrace
		}
	}
	done := make(chan *rankAnswer, 1)
	go func() {
		result, err := work(doing)
		if err != nil {
			done <- &rankAnswer{Failure: newFailure(rank, err)}
			return
		}
		done <- &rankAnswer{Result: result}
	}()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case answer := <-done:
			return answer
		case <-tick.C:
			mu.Lock()
			late, what, after := time.Since(since) > limit, activity, limit
			mu.Unlock()
			if late {
				f := newFailure(rank, fmt.Errorf("hook %s, rank %d: %s took more than %s", plan.Hook.Hook, rank, what, after))
				f.Code = codeTimeout
				return &rankAnswer{Failure: f}
			}
		}
	}
}
