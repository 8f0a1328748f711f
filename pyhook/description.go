package pyhook

import (
	"fmt"
	"regexp"
	"strings"

	"pyhook/internal/shortname"
)

// Description implements c10d.DescribedHook: the hook's name, and where its state is one of torch's
// own, which must be made alike on every rank, the StateSpec that it was made by.
func (h *PythonCommHook) Description() string { return h.description }

// Describe returns the Description of a hook of that name, with a state as HookConfig.State has it.
func Describe(name string, state any) string {
	name = folders.ReplaceAllString(name, "") // each host may have its own
	switch s := state.(type) {
	case *StateSpec:
		return Describe(name, *s)
	case StateSpec:
		if s.ofTorch() {
			return fmt.Sprintf("%s with the state %s %v", name, s.Spec, s.plainArgs())
		}
	}
	return name
}

var folders = regexp.MustCompile(`[^(),\s]*/`)

// ofTorch reports whether the state is one of torch's. Others may be made with a rank of their own.
func (s StateSpec) ofTorch() bool {
	name, _, _ := strings.Cut(s.Spec, "(")
	return shortname.IsState(strings.TrimSpace(name)) || strings.HasPrefix(name, "torch.")
}

// plainArgs are the arguments that mean the same in every process.
func (s StateSpec) plainArgs() map[string]any {
	plain := map[string]any{}
	for name, value := range s.Args {
		switch value.(type) {
		case nil, bool, string, int, int8, int16, int32, int64, uint, uint8, uint16, uint32, uint64, float32, float64:
			plain[name] = value
		}
	}
	return plain
}
