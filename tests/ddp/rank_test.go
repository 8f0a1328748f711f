package ddp

import (
	"context"
	"time"

	"pyhook/pyhook"
	"pyhook/tests/ranks"
	"pyhook/tests/ranks/rankpython"
)

// batch is what the ranks of one job run: importing torch once serves all cases.
type batch[C any] struct {
	Python, Folder string
	Cases          []C
}

func startRuntime(ctx context.Context, python string) (*pyhook.Runtime, error) {
	return rankpython.Start(ctx, pyhook.Config{Python: python, Path: []string{"testdata"}})
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
