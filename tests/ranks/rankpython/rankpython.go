// Package rankpython is Python in a process of ranks.Shared, where it runs from the first case on.
package rankpython

import (
	"context"

	"pyhook/pyhook"
)

var runtime *pyhook.Runtime // there is one interpreter a process

// Start starts Python, or returns the one that runs: then cfg is that of the first call.
func Start(ctx context.Context, cfg pyhook.Config) (_ *pyhook.Runtime, err error) {
	if runtime == nil {
		runtime, err = pyhook.Start(ctx, cfg)
	}
	return runtime, err
}

// Leave destroys the group that a case was in, so that the next one can join one. It collects
// garbage that refers to the group, such as a state: while the group's store is there but the one of
// rank 0 is not, a thread of torch 1.13 reads its end over and over.
func Leave(rt *pyhook.Runtime, world *pyhook.TorchGroup) error {
	world.Close()
	for _, call := range [][2]string{{"torch.distributed", "destroy_process_group"}, {"gc", "collect"}} {
		module, err := rt.Import(context.Background(), call[0])
		if err != nil {
			return err
		}
		_, err = module.CallValue(call[1])
		module.Close()
		if err != nil {
			return err
		}
	}
	return nil
}
