package pyhook

import (
	"fmt"
	"slices"
	"sync"

	"pyhook/c10d"
	"pyhook/cbridge"
)

// legacyNames collects the names of torch <= 1.9 that a hook used.
type legacyNames struct {
	mu    sync.Mutex
	names map[string]bool
}

func (l *legacyNames) note(layout *Object) {
	set, err := layout.Attr("legacy_names")
	if err != nil {
		return
	}
	defer set.Close()
	sorted, err := builtin("sorted", set)
	if err != nil {
		return
	}
	defer sorted.Close()
	list, err := cbridge.As[[]any](sorted)
	if err != nil || len(list) == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.names == nil {
		l.names = map[string]bool{}
	}
	for _, name := range list {
		l.names[fmt.Sprint(name)] = true
	}
}

func builtin(name string, args ...any) (*Object, error) {
	builtins, err := cbridge.Import("builtins")
	if err != nil {
		return nil, err
	}
	defer builtins.Close()
	return builtins.Call(name, args...)
}

// LegacyNames returns the bucket methods and result forms of torch 1.7 to 1.9
// that the hook used with b (and in results parsed so far), sorted: such a hook
// works here and not on a current PyTorch.
func (h *PythonCommHook) LegacyNames(b *c10d.GradBucket) []string {
	if python, _, err := pythonBucketOf(h.rt.torchAPI, b); err == nil {
		h.legacy.note(python.layout)
		python.release()
	}
	h.legacy.mu.Lock()
	defer h.legacy.mu.Unlock()
	var names []string
	for name := range h.legacy.names {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
