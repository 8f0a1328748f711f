package parity

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"pyhook/c10d/hooks"
	"pyhook/pyhook"
)

// This file makes each case's hook and state by the public API alone: it is
// also the example of how to make the unusual ones.

func (t *trial) makeHook() error {
	switch t.c.Hook {
	case "", "builtin:ALLREDUCE":
		t.hook = &hooks.AllReduceCommHook{Group: t.group}
		return nil
	case "builtin:FP16_COMPRESS":
		t.hook = &hooks.FP16CompressCommHook{Group: t.group}
		return nil
	}
	function, err := t.function()
	if err != nil {
		return err
	}
	state, err := t.state()
	if err != nil {
		return err
	}
	hook, err := t.rt.WrapHook(context.Background(), function, pyhook.HookConfig{State: state})
	if err != nil {
		return err
	}
	t.hook = hook
	t.release = append(t.release, hook.Close)
	return nil
}

// keep closes an object at the end of the trial.
func (t *trial) keep(o *pyhook.Object, err error) (*pyhook.Object, error) {
	if err == nil {
		t.release = append(t.release, o.Close)
	}
	return o, err
}

// find returns "module:name".
func (t *trial) find(spec string) (*pyhook.Object, error) {
	module, name, _ := strings.Cut(spec, ":")
	m, err := t.rt.Import(context.Background(), module)
	if err != nil {
		return nil, err
	}
	defer m.Close()
	return t.keep(m.Attr(name))
}

// make calls "module:name".
func (t *trial) make(spec string, args []any, kwargs map[string]any) (*pyhook.Object, error) {
	f, err := t.find(spec)
	if err != nil {
		return nil, err
	}
	return t.keep(f.Invoke(args, kwargs))
}

// function is the hook, with its factories and keyword arguments.
func (t *trial) function() (*pyhook.Object, error) {
	if t.c.Mode == "optimizer" {
		return t.hookThenOptimizer()
	}
	hook, err := t.keep(t.rt.LoadHook(context.Background(), t.c.Hook))
	if err != nil || len(t.c.HookKwargs) == 0 {
		return hook, err
	}
	return t.make("functools:partial", []any{hook}, t.c.HookKwargs)
}

// hookThenOptimizer makes _hook_then_optimizer(hook, _OptimizerHookState(optimizer)).
func (t *trial) hookThenOptimizer() (*pyhook.Object, error) {
	factory, inner, _ := strings.Cut(strings.TrimSuffix(t.c.Hook, ")"), "(")
	hook, err := t.keep(t.rt.LoadHook(context.Background(), inner))
	if err != nil {
		return nil, err
	}
	kwargs := maps.Clone(t.c.Optimizer.Kwargs)
	kwargs["_allow_empty_param_list"] = true
	optimizer, err := t.make(t.c.Optimizer.Class, []any{[]any{}}, kwargs)
	if err != nil {
		return nil, err
	}
	state, err := t.make(hooksPackage+".optimizer_overlap_hooks:_OptimizerHookState", []any{optimizer}, nil)
	if err != nil {
		return nil, err
	}
	return t.make(factory, []any{hook, state}, nil)
}

// state is the hook's first argument.
func (t *trial) state() (any, error) {
	switch spec := t.c.State.(type) {
	case nil:
		return nil, nil
	case string:
		switch spec {
		case "group":
			return t.group, nil
		case "group:nccl_futures": // gloo, with NCCL's form of all_gather's future
			return t.keep(t.rt.NewState(context.Background(), "oracle_state:NcclShapedGroup", map[string]any{"group": t.group.Object()}, nil))
		}
	case map[string]any:
		given, _ := spec["kwargs"].(map[string]any)
		kwargs := maps.Clone(given)
		if kwargs["subgroup"] != nil {
			group, err := t.subgroup(kwargs["subgroup"])
			if err != nil {
				return nil, err
			}
			kwargs["subgroup"] = group.Object()
		}
		return t.keep(t.rt.NewState(context.Background(), fmt.Sprint(spec["class"]), kwargs, t.group))
	}
	return nil, fmt.Errorf("unknown state %v", t.c.State)
}

// subgroup is "new_group" or {"new_group": [[0, 1], [2, 3]]}: every rank makes
// every group and keeps its own.
func (t *trial) subgroup(spec any) (*pyhook.TorchGroup, error) {
	var lists [][]int
	if split, ok := spec.(map[string]any); ok {
		for _, list := range split["new_group"].([]any) {
			var ranks []int
			for _, rank := range list.([]any) {
				ranks = append(ranks, int(rank.(int64)))
			}
			lists = append(lists, ranks)
		}
	} else {
		var everyone []int
		for rank := range t.c.World {
			everyone = append(everyone, rank)
		}
		lists = append(lists, everyone)
	}
	var mine *pyhook.TorchGroup
	for _, ranks := range lists {
		group, err := t.group.NewGroup(context.Background(), ranks)
		if err != nil {
			return nil, err
		}
		if slices.Contains(ranks, t.rank) {
			mine = group
			keepGroup(group)
			t.release = append(t.release, group.Close)
		}
	}
	return mine, nil
}

// errNotTried: the hook is DistributedDataParallel's own and works on its
// Reducer (reducer._run_allreduce_hook), which no other caller has.
var errNotTried = errors.New("not tried, as the hook works on the Reducer inside DistributedDataParallel")

// askDDPHook goes as far as one can with a hook that DDP installs: to its
// factory, which for ZeRO refuses gloo.
func (t *trial) askDDPHook() error {
	hook := setUpByDDP[t.c.Mode]
	factory, err := t.find(hook.module + ":" + hook.name)
	if err != nil {
		return err
	}
	if !strings.HasPrefix(t.c.Mode, "zero") {
		return errNotTried
	}
	inner, err := t.keep(t.rt.LoadHook(context.Background(), "allreduce"))
	if err != nil {
		return err
	}
	model, err := t.make("torch.nn:Linear", []any{4, 4}, nil)
	if err != nil {
		return err
	}
	ddp, err := t.make("torch.nn.parallel:DistributedDataParallel", []any{model}, nil)
	if err != nil {
		return err
	}
	parameters, err := t.keep(ddp.Call("parameters"))
	if err != nil {
		return err
	}
	class, err := t.find(t.c.Optimizer.Class)
	if err != nil {
		return err
	}
	kwargs := maps.Clone(t.c.Optimizer.Kwargs)
	kwargs["optimizer_class"], kwargs["overlap_with_ddp"] = class, true
	zero, err := t.make("torch.distributed.optim:ZeroRedundancyOptimizer", []any{parameters}, kwargs)
	if err != nil {
		return err
	}
	_, err = t.keep(factory.Invoke([]any{inner, ddp, zero}, nil))
	return err
}
