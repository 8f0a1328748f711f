package main

import (
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// hookNames are the short names of PyTorch's own hooks. A test keeps them in
// step with SHORT_NAMES of python/pyhook/_load.py.
var hookNames = map[string]string{
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
	"go:allreduce":        "the mean, written in Go",
	"go:fp16":             "all-reduce in float16, written in Go",
}

// completeHook completes a hook's spec: the short names, and files.
func completeHook(_ *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var found []string
	for _, name := range slices.Sorted(maps.Keys(hookNames)) {
		switch {
		case !strings.HasPrefix(name, toComplete):
		case strings.HasSuffix(name, "_wrapper"):
			found = append(found, name+"("+cobraNote(hookNames[name]))
		default:
			found = append(found, name+cobraNote(hookNames[name]))
		}
	}
	return found, cobra.ShellCompDirectiveDefault
}

// completeHookFlag is completeHook for a flag: arguments do not matter.
func completeHookFlag(cmd *cobra.Command, _ []string, toComplete string) ([]string, cobra.ShellCompDirective) {
	return completeHook(cmd, nil, toComplete)
}

func completeState(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return []string{"powersgd", "batched_powersgd", "post_localsgd"}, cobra.ShellCompDirectiveDefault
}

func cobraNote(description string) string { return "\t" + description }

// defaultState is the state that a hook of PyTorch's cannot do without, and its
// arguments, for a short run: PowerSGD that compresses from the third step on
// (its own default is the 1000th), local SGD that still averages. A wrapper
// takes its hook's.
func defaultState(hook string) (spec, arg string) {
	inner := strings.Trim(hook[strings.LastIndexByte(hook, '(')+1:], ") ")
	_, name, _ := strings.Cut(inner, "ddp_comm_hooks.")
	switch {
	case inner == "powersgd", inner == "batched_powersgd", strings.HasPrefix(name, "powerSGD_hook:"):
		return "powersgd", "start_powerSGD_iter=2"
	case inner == "post_localsgd", strings.HasPrefix(name, "post_localSGD_hook:"):
		return "post_localsgd", "start_localSGD_iter=100"
	}
	return "", ""
}

// withDefault adds arg, key=JSON, if the key is not there.
func withDefault(args []string, arg string) []string {
	key, _, ok := strings.Cut(arg, "=")
	for _, given := range args {
		if strings.HasPrefix(given, key+"=") {
			return args
		}
	}
	if !ok {
		return args
	}
	return append(args, arg)
}
