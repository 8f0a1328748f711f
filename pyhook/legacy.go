package pyhook

import (
	"fmt"
	"maps"
	"slices"
	"sync"

	"pyhook/c10d"
)

// legacyNames collects the names of torch <= 1.9 that a hook used.
type legacyNames struct {
	mu    sync.Mutex
	names map[string]bool
}

func (l *legacyNames) note(layout *Object) {
	value, err := layout.CallValue("used_legacy_names")
	used, _ := value.([]any)
	if err != nil || len(used) == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.names == nil {
		l.names = map[string]bool{}
	}
	for _, name := range used {
		l.names[fmt.Sprint(name)] = true
	}
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
	return slices.Sorted(maps.Keys(h.legacy.names))
}
