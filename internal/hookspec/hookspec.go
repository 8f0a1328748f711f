// Package hookspec is the command's way to name a hook and its state:
// --hook, --state and --state-arg.
package hookspec

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"pyhook/c10d"
	"pyhook/c10d/hooks"
	"pyhook/pyhook"
)

// Spec names a hook and how to make its state.
type Spec struct {
	Hook      string   // pyhook.LoadHook's spec, or "go:allreduce", "go:fp16"
	State     string   // pyhook.NewState's spec; empty: see Make
	StateArgs []string // key=JSON
	// NCCLFutures: the hook gets NCCL's forms of futures (pyhook.FutureFormsNCCL).
	NCCLFutures bool `json:",omitempty"`
}

// AddStateFlags adds --state, --state-arg and --nccl-futures.
func (s *Spec) AddStateFlags(flags *pflag.FlagSet) {
	flags.StringVar(&s.State, "state", s.State, "class or function that makes the hook's `state`: package.module:Class, file.py:Class, or powersgd, post_localsgd (default: what the hook needs, see --help)")
	flags.BoolVar(&s.NCCLFutures, "nccl-futures", s.NCCLFutures, "give the hook NCCL's forms of futures: for one that indexes an all_gather's value() as NCCL gives it")
	flags.StringArrayVar(&s.StateArgs, "state-arg", s.StateArgs, "keyword argument of the state, `key=JSON`; repeatable")
}

// Args parses the state's keyword arguments.
func (s *Spec) Args() (map[string]any, error) {
	args := map[string]any{}
	for _, text := range s.StateArgs {
		key, value, ok := strings.Cut(text, "=")
		if !ok || key == "" {
			return nil, fmt.Errorf("--state-arg %q: write key=JSON, such as start_powerSGD_iter=10", text)
		}
		var v any
		decoder := json.NewDecoder(strings.NewReader(value))
		decoder.UseNumber()
		if err := decoder.Decode(&v); err != nil {
			return nil, fmt.Errorf("--state-arg %s: %q is not JSON (a text needs quotes: %s='\"text\"'): %w", key, value, key, err)
		}
		if decoder.More() {
			return nil, fmt.Errorf("--state-arg %s: %q is more than one JSON value", key, value)
		}
		converted, err := Numbers(v)
		if err != nil {
			return nil, fmt.Errorf("--state-arg %s: %w", key, err)
		}
		args[key] = converted
	}
	return args, nil
}

// Numbers makes ints and floats of the json.Number in a value of JSON: 2 and 2.0 differ in Python.
func Numbers(v any) (any, error) {
	switch v := v.(type) {
	case json.Number:
		if i, err := v.Int64(); err == nil {
			return i, nil
		}
		return v.Float64()
	case []any:
		for i := range v {
			n, err := Numbers(v[i])
			if err != nil {
				return nil, err
			}
			v[i] = n
		}
	case map[string]any:
		for k := range v {
			n, err := Numbers(v[k])
			if err != nil {
				return nil, err
			}
			v[k] = n
		}
	}
	return v, nil
}

// WithDefaults gives PyTorch's stateful hooks, and wrappers around them, their
// state when none is named, with arguments for a short run: PowerSGD from step 2,
// the earliest it allows with error feedback, and not 1,000; local SGD that still
// averages. Arguments that are there stay.
func (s Spec) WithDefaults() Spec {
	if s.State != "" {
		return s
	}
	inner, _, _ := strings.Cut(strings.Trim(s.Hook[strings.LastIndexByte(s.Hook, '(')+1:], ") "), ",")
	inner = strings.TrimSpace(inner)
	_, name, _ := strings.Cut(inner, "ddp_comm_hooks.")
	var arg string
	switch {
	case inner == "powersgd", inner == "batched_powersgd", strings.HasPrefix(name, "powerSGD_hook:"):
		s.State, arg = "powersgd", "start_powerSGD_iter=2"
	case inner == "post_localsgd", strings.HasPrefix(name, "post_localSGD_hook:"):
		s.State, arg = "post_localsgd", "start_localSGD_iter=100"
	default:
		return s
	}
	key, _, _ := strings.Cut(arg, "=")
	for _, given := range s.StateArgs {
		if strings.HasPrefix(given, key+"=") {
			return s
		}
	}
	s.StateArgs = append(slices.Clone(s.StateArgs), arg)
	return s
}

// Futures is pyhook.HookConfig's.
func (s Spec) Futures() pyhook.FutureForms {
	if s.NCCLFutures {
		return pyhook.FutureFormsNCCL
	}
	return pyhook.FutureFormsBackend
}

// Make makes the hook and its state; close drops both. A stateless hook gets
// the state None, which stands for the default process group. params are the model's,
// for a state or hook that takes them.
func (s Spec) Make(ctx context.Context, rt *pyhook.Runtime, group *pyhook.TorchGroup, params []*c10d.Parameter) (hook c10d.CommHook, close func(), err error) {
	switch s.Hook {
	case "go:allreduce":
		return &hooks.AllReduceCommHook{Group: group}, func() {}, nil
	case "go:fp16":
		return &hooks.FP16CompressCommHook{Group: group}, func() {}, nil
	}
	s = s.WithDefaults()
	args, err := s.Args()
	if err != nil {
		return nil, nil, err
	}
	cfg := pyhook.HookConfig{Group: group, Parameters: params, Futures: s.Futures()}
	if s.State != "" {
		cfg.State = pyhook.StateSpec{Spec: s.State, Args: args}
	} else if len(args) > 0 {
		return nil, nil, fmt.Errorf("--state-arg is given and --state is not: the arguments are the state's")
	}
	h, err := rt.NewHook(ctx, s.Hook, cfg)
	if err != nil {
		return nil, nil, err
	}
	return h, h.Close, nil
}
