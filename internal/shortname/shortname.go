// Package shortname has the short names of PyTorch's own hooks and states. A test of package cli keeps
// them in step with python/pyhook/_loading/names.py.
package shortname

import (
	"regexp"
	"slices"
	"strings"
)

// Hooks are the hooks' names, and what each does.
var Hooks = map[string]string{
	"allreduce":           "the mean, as without a hook",
	"fp16":                "all-reduce in float16",
	"bf16":                "all-reduce in bfloat16",
	"fp16_wrapper":        "fp16_wrapper(hook): another hook in float16",
	"bf16_wrapper":        "bf16_wrapper(hook): another hook in bfloat16",
	"powersgd":            "low-rank approximation, PowerSGD",
	"batched_powersgd":    "PowerSGD over the whole bucket as one matrix",
	"noop":                "for debugging: no communication at all",
	"quantize_pertensor":  "8-bit quantisation, one scale a tensor",
	"quantize_perchannel": "8-bit quantisation, one scale a channel",
	"post_localsgd":       "all-reduce, then local SGD",
}

// States are the states' names.
var States = []string{"powersgd", "batched_powersgd", "post_localsgd"}

// IsWrapper reports whether the hook of that name is made around another.
func IsWrapper(hook string) bool { return strings.HasSuffix(hook, "_wrapper") }

var wrapped = regexp.MustCompile(`^(\w+_wrapper)\((.*)\)$`)

// IsHook reports whether a spec is of one of these hooks, or of wrappers around one.
func IsHook(spec string) bool {
	for {
		parts := wrapped.FindStringSubmatch(spec)
		if parts == nil {
			return Hooks[spec] != "" && !IsWrapper(spec)
		}
		if Hooks[parts[1]] == "" {
			return false
		}
		spec = parts[2]
	}
}

// IsState reports whether a spec is the name of one of these states.
func IsState(spec string) bool { return slices.Contains(States, spec) }
