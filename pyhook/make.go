package pyhook

import (
	"context"
	"errors"
	"fmt"
	"reflect"

	"pyhook/c10d"
	"pyhook/cbridge"
	"pyhook/internal/ctxerr"
)

// StateSpec says how a hook's state is made: Runtime.NewState's arguments. With
// HookConfig.Parameters the class or function is given the model's parameters where
// it takes them.
type StateSpec struct {
	Spec string         // "powersgd", "my_hooks.py:MyState", "my_hooks.py:make_state(rank=2)"
	Args map[string]any // keyword arguments
}

// ofTrainer is what states and hooks may be made with.
type ofTrainer struct {
	group      *TorchGroup
	parameters *Object // of Runtime.Parameters; nil: not known
	values     []*c10d.Parameter
	futures    FutureForms
}

func (rt *Runtime) ofTrainer(cfg HookConfig) (t ofTrainer, err error) {
	t.group, t.futures, t.values = cfg.Group, cfg.Futures, cfg.Parameters
	if cfg.Parameters != nil {
		t.parameters, err = rt.Parameters(cfg.Parameters...)
	}
	return t, err
}

func (t ofTrainer) close() { t.parameters.Close() }

// arguments are the group and the parameters as Python takes them.
func (t ofTrainer) arguments() (group, parameters any) {
	if t.group != nil {
		group = t.group.Object()
	}
	if t.parameters != nil {
		parameters = t.parameters
	}
	return group, parameters
}

func (rt *Runtime) loadHook(ctx context.Context, spec string, trainer ofTrainer) (*Object, error) {
	group, parameters := trainer.arguments()
	hook, err := rt.callOnMain(ctx, "load_hook", spec, group, parameters)
	if err != nil {
		return nil, hookError(spec, rt.Rank(), -1, c10d.ErrLoad, err)
	}
	return hook, nil
}

func (rt *Runtime) newState(ctx context.Context, s StateSpec, trainer ofTrainer) (*Object, error) {
	args := s.Args
	if args == nil {
		args = map[string]any{}
	}
	group, parameters := trainer.arguments()
	state, err := rt.callOnMain(ctx, "build_state", s.Spec, args, group, parameters)
	if err == nil {
		err = SynchronizeValues(parametersIn(reflect.ValueOf(args))...) // that it has begun to read
	}
	if err != nil {
		state.Close()
		return nil, newError("state "+s.Spec, rt.Rank(), -1, c10d.ErrLoad, err)
	}
	return state, nil
}

// parametersIn returns the parameters in an argument, at any depth that it may be converted with.
func parametersIn(arg reflect.Value) (params []*c10d.Parameter) {
	switch arg.Kind() {
	case reflect.Interface:
		return parametersIn(arg.Elem())
	case reflect.Pointer:
		if p, ok := arg.Interface().(*c10d.Parameter); ok && p != nil {
			params = append(params, p)
		}
	case reflect.Slice, reflect.Array:
		for i := range arg.Len() {
			params = append(params, parametersIn(arg.Index(i))...)
		}
	case reflect.Map:
		for key, value := range arg.Seq2() {
			params = append(append(params, parametersIn(key)...), parametersIn(value)...)
		}
	}
	return params
}

// wrapHook puts a hook and its state together.
func (rt *Runtime) wrapHook(ctx context.Context, hook *Object, state any, trainer ofTrainer) (*PythonCommHook, error) {
	if ctx.Err() != nil {
		return nil, hookError(rt.nameOf(hook), rt.Rank(), -1, c10d.ErrLoad, ctxerr.While(ctx, notCalled))
	}
	if _, err := rt.bridge.CallValue("check_hook", hook); err != nil {
		return nil, hookError(rt.nameOf(hook), rt.Rank(), -1, c10d.ErrLoad, err)
	}
	given := state
	switch s := state.(type) {
	case *TorchGroup:
		state = nil
		if s != nil {
			state = s.Object()
		}
	case *StateSpec:
		if s == nil {
			return nil, hookError(rt.nameOf(hook), rt.Rank(), -1, c10d.ErrBadArguments, errors.New("HookConfig.State is a nil *StateSpec: leave it out, or say how the state is made"))
		}
		return rt.wrapHook(ctx, hook, *s, trainer)
	case StateSpec:
		made, err := rt.newState(ctx, s, trainer)
		if err != nil {
			return nil, err
		}
		defer made.Close()
		state = made
	}
	h, err := rt.joinState(ctx, hook, state, trainer)
	if err != nil {
		return nil, err
	}
	h.description = Describe(h.name, given)
	if err := SynchronizeValues(trainer.values...); err != nil { // that the hook and its state have begun to read
		h.Close()
		return nil, hookError(h.name, rt.Rank(), -1, c10d.ErrLoad, err)
	}
	return h, nil
}

// joinState makes the PythonCommHook, with the state that comes with the hook if none
// is given.
func (rt *Runtime) joinState(ctx context.Context, hook *Object, state any, trainer ofTrainer) (_ *PythonCommHook, err error) {
	group, parameters := trainer.arguments()
	both, err := rt.callOnMain(ctx, "hook_and_state", hook, state != nil, group, parameters)
	if err != nil {
		return nil, hookError(rt.nameOf(hook), rt.Rank(), -1, c10d.ErrLoad, err)
	}
	defer both.Close()
	h := &PythonCommHook{rt: rt}
	if h.hook, err = both.Call("__getitem__", 0); err != nil {
		return nil, hookError(rt.nameOf(hook), rt.Rank(), -1, c10d.ErrLoad, err)
	}
	h.name = rt.nameOf(h.hook)
	h.description = Describe(h.name, nil)
	var object *Object
	if state != nil {
		object, err = cbridge.Convert(state)
	} else {
		object, err = both.Call("__getitem__", 1)
	}
	if err != nil {
		h.hook.Close()
		return nil, hookError(h.name, rt.Rank(), -1, c10d.ErrBadArguments, err)
	}
	h.state, h.stateless = rt.renewal.slots.add(object), object.IsNone()
	if err := h.presentFutures(trainer.futures); err != nil {
		h.Close()
		return nil, hookError(h.name, rt.Rank(), -1, c10d.ErrBadArguments, err)
	}
	return h, nil
}

// nameOf is how a hook is shown.
func (rt *Runtime) nameOf(hook *Object) string {
	name, err := rt.bridge.CallValue("hook_name", hook)
	if err != nil {
		return "without a name"
	}
	return fmt.Sprint(name)
}

// Capture makes a hook of an object that registers one with a DDP model, by a method
// attach(ddp), register(ddp) or the like that calls ddp.register_comm_hook(state,
// hook), or of a function of the model that does. It is given a stand-in for the model
// (python/pyhook/capture.py), with cfg.Parameters under their names and cfg.Group; the
// hook has the state that was registered. object stays the caller's. The error is a
// *c10d.Error.
func (rt *Runtime) Capture(ctx context.Context, object *Object, cfg HookConfig) (*PythonCommHook, error) {
	trainer, err := rt.ofTrainer(cfg)
	if err != nil {
		return nil, err
	}
	defer trainer.close()
	group, parameters := trainer.arguments()
	registered, err := rt.callOnMain(ctx, "capture", object, parameters, group)
	if err != nil {
		return nil, hookError(rt.nameOf(object), rt.Rank(), -1, c10d.ErrLoad, err)
	}
	defer registered.Close()
	return rt.wrapHook(ctx, registered, cfg.State, trainer)
}
