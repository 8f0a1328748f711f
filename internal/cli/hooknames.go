package cli

import (
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"pyhook/internal/shortname"
)

// HookNames are the names that a hook's spec may be, and what each hook does: PyTorch's own, and Go's.
var HookNames = hookNames()

func hookNames() map[string]string {
	names := maps.Clone(shortname.Hooks)
	names["go:allreduce"] = "the mean, written in Go"
	names["go:fp16"] = "all-reduce in float16, written in Go"
	return names
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
		case shortname.IsWrapper(name):
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
	return shortname.States, cobra.ShellCompDirectiveDefault
}

func cobraNote(description string) string { return "\t" + description }
