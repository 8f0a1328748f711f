package ddp

import (
	"context"
	"time"

	"pyhook/pyhook"
	"pyhook/tests/ranks"
)

// batch is what the ranks of one job run: importing torch once serves all cases.
type batch[C any] struct {
	Python, Folder string
	Cases          []C
}

// runtime is Python in a rank's process, for all its runs: there is one interpreter a process.
var runtime *pyhook.Runtime

func startRuntime(ctx context.Context, python string) (_ *pyhook.Runtime, err error) {
	if runtime == nil {
		runtime, err = pyhook.Start(ctx, pyhook.Config{Python: python, Path: []string{"testdata"}})
	}
	return runtime, err
}

// startRank reads what the rank is to do into args, starts the interpreter that python then names,
// and joins the gloo group.
func startRank(ctx context.Context, rank *ranks.Rank, args any, python *string) (*pyhook.Runtime, *pyhook.TorchGroup, error) {
	if err := rank.Args(args); err != nil {
		return nil, nil, err
	}
	rt, err := startRuntime(ctx, *python)
	if err != nil {
		return nil, nil, err
	}
	world, err := rt.InitProcessGroup(ctx, pyhook.GroupConfig{Backend: "gloo", Timeout: time.Minute, InitMethod: rank.Meet})
	return rt, world, err
}

// leave closes the group that this rank's run was in, so that the next one can join one. It collects
// garbage that refers to the group, such as a state: while the group's store is there but the one of
// rank 0 is not, a thread of torch 1.13 reads its end over and over.
func leave(rt *pyhook.Runtime, world *pyhook.TorchGroup) error {
	world.Close()
	distributed, err := rt.Import(context.Background(), "torch.distributed")
	if err != nil {
		return err
	}
	defer distributed.Close()
	if _, err = distributed.CallValue("destroy_process_group"); err != nil {
		return err
	}
	gc, err := rt.Import(context.Background(), "gc")
	if err != nil {
		return err
	}
	defer gc.Close()
	_, err = gc.CallValue("collect")
	return err
}
