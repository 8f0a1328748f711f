package cli

import (
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// HookNames are the short names of PyTorch's own hooks. A test keeps them in
// step with SHORT_NAMES of python/pyhook/_loading/names.py.
var HookNames = map[string]string{
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

// CompleteHook completes a hook's spec: the short names, and files.
func CompleteHook(_ *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var found []string
	for _, name := range slices.Sorted(maps.Keys(HookNames)) {
		switch {
		case !strings.HasPrefix(name, toComplete):
		case strings.HasSuffix(name, "_wrapper"):
			found = append(found, name+"("+cobraNote(HookNames[name]))
		default:
			found = append(found, name+cobraNote(HookNames[name]))
		}
	}
	return found, cobra.ShellCompDirectiveDefault
}

// CompleteHookFlag is completeHook for a flag: arguments do not matter.
func CompleteHookFlag(cmd *cobra.Command, _ []string, toComplete string) ([]string, cobra.ShellCompDirective) {
	return CompleteHook(cmd, nil, toComplete)
}

func CompleteState(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return []string{"powersgd", "batched_powersgd", "post_localsgd"}, cobra.ShellCompDirectiveDefault
}

func cobraNote(description string) string { return "\t" + description }
