package compare

import (
	"slices"
	"strings"

	"pyhook/internal/cli"
	"pyhook/internal/hookspec"
)

// parseHook reads HOOK[,key=JSON...]: a hook's spec, and behind it the keyword arguments of its
// state. state=SPEC names the state itself.
func parseHook(text string) (hookspec.Spec, error) {
	parts := splitArguments(text)
	spec := hookspec.Spec{Hook: parts[0]}
	for _, arg := range parts[1:] {
		key, value, _ := strings.Cut(arg, "=")
		switch key {
		case "state":
			spec.State = value
		case "nccl_futures":
			if value != "true" && value != "false" {
				return spec, cli.UsageError("%s: nccl_futures is true or false", text)
			}
			spec.NCCLFutures = value == "true"
		default:
			spec.StateArgs = append(spec.StateArgs, arg)
		}
	}
	if spec.Hook == "" {
		return spec, cli.UsageError("%q names no hook", text)
	}
	spec = spec.WithDefaults()
	if _, err := spec.Args(); err != nil {
		return spec, cli.UsageError("%s: %s", text, strings.ReplaceAll(err.Error(), "--state-arg ", "the argument "))
	}
	if spec.State == "" && len(spec.StateArgs) > 0 {
		return spec, cli.UsageError("%s: %s takes no state of its own: name the state that the arguments are for, %s,state=my_hooks.py:State,%s",
			text, spec.Hook, spec.Hook, strings.Join(spec.StateArgs, ","))
	}
	if strings.HasPrefix(spec.Hook, "go:") && cli.HookNames[spec.Hook] == "" {
		return spec, cli.UsageError("%s: the hooks written in Go are go:allreduce and go:fp16", text)
	}
	return spec, nil
}

// splitArguments cuts at commas that are outside of brackets and quotes and stand before key=.
func splitArguments(text string) []string {
	var parts []string
	depth, from := 0, 0
	var quote rune
	for i, c := range text {
		switch {
		case quote != 0:
			if c == quote {
				quote = 0
			}
		case c == '"' || c == '\'':
			quote = c
		case strings.ContainsRune("([{", c):
			depth++
		case strings.ContainsRune(")]}", c):
			depth--
		case c == ',' && depth == 0 && isArgument(text[i+1:]):
			parts, from = append(parts, text[from:i]), i+1
		}
	}
	return append(parts, text[from:])
}

// isArgument reports whether text begins with a keyword and =.
func isArgument(text string) bool {
	key, _, found := strings.Cut(text, "=")
	return found && key != "" && !slices.ContainsFunc([]rune(key), func(c rune) bool {
		return c != '_' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z')
	})
}

// parseHooks reads all of them, each once.
func parseHooks(texts []string) ([]hookspec.Spec, error) {
	if len(texts) == 0 {
		return nil, cli.UsageError("compare takes one hook or more, such as allreduce fp16 hooks.py:my_hook, and got none")
	}
	var specs []hookspec.Spec
	for i, text := range texts {
		if slices.Contains(texts[:i], text) {
			return nil, cli.UsageError("%s is there twice", text)
		}
		spec, err := parseHook(text)
		if err != nil {
			return nil, err
		}
		specs = append(specs, spec)
	}
	return specs, nil
}
