package job

import (
	"context"
	"errors"

	"pyhook/c10d"
	"pyhook/ddp"
	"pyhook/pyhook"
	"pyhook/worker"
)

// Hook makes a hook by its spec: "fp16", "my_hooks.py:my_hook", as pyhook.Runtime.LoadHook has them.
// A collective: what fails on one rank is an error on every rank. cfg, at most one, gives it a state
// made with arguments, or the model's parameters:
//
//	j.Hook(ctx, "powersgd", pyhook.HookConfig{State: pyhook.StateSpec{
//		Spec: "powersgd", Args: map[string]any{"matrix_approximation_rank": 2}}})
//
// The hook is a *pyhook.PythonCommHook, or with Config.Worker a *worker.Hook, which Worker().NewHook
// makes with more settings. Close closes it, if the caller has not.
func (j *Job) Hook(ctx context.Context, spec string, cfg ...pyhook.HookConfig) (c10d.CommHook, error) {
	hook, err := j.newHook(ctx, spec, cfg)
	if err := ddp.ShareError(ctx, j.group, err); err != nil {
		if hook != nil {
			hook.Close()
		}
		return nil, j.errorf("making hook %s: %w", spec, err)
	}
	if err := j.owns(hook.Close); err != nil {
		return nil, err
	}
	return hook, nil
}

type closableHook interface {
	c10d.CommHook
	Close()
}

// newHook returns no typed nil.
func (j *Job) newHook(ctx context.Context, spec string, cfg []pyhook.HookConfig) (closableHook, error) {
	var c pyhook.HookConfig
	switch len(cfg) {
	case 0:
	case 1:
		c = cfg[0]
	default:
		return nil, errors.New("Job.Hook takes one HookConfig or none")
	}
	if j.worker != nil {
		if c.Group != nil {
			return nil, errors.New("HookConfig.Group is of this process, and the hook runs in a worker: leave it out")
		}
		hook, err := j.worker.NewHook(ctx, spec, worker.HookConfig{State: c.State, Futures: c.Futures, Parameters: c.Parameters})
		if err != nil {
			return nil, err
		}
		return hook, nil
	}
	hook, err := j.runtime.NewHook(ctx, spec, c)
	if err != nil {
		return nil, err
	}
	return hook, nil
}
