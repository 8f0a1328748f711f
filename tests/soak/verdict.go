package main

import (
	"fmt"
	"strings"
)

// verdict compares a rank's first sample, when it was warm, with its last.
type verdict struct {
	Calls   int64    `json:"calls"`
	Grown   int64    `json:"grown_bytes"`
	Allowed int64    `json:"allowed_bytes"`
	Left    []string `json:"left"` // what did not come back
}

const (
	// Go keeps threads that were blocked in C, and makes more when many are at once.
	moreThreads = 8
	// Caches that fill once: of warnings, of source lines for tracebacks.
	morePython = 200
)

func judge(warm, last sample) *verdict {
	v := &verdict{Calls: last.Calls - warm.Calls, Grown: last.Resident - warm.Resident, Left: []string{}}
	v.Allowed = max(1<<20, int64(float64(1<<20)*float64(v.Calls)/1e6))
	if v.Grown >= v.Allowed {
		v.Left = append(v.Left, fmt.Sprintf("resident memory: %+.2f MiB", float64(v.Grown)/(1<<20)))
	}
	for _, c := range []struct {
		name       string
		warm, last int64
		more       int64
	}{
		{"objects", warm.Objects, last.Objects, 0},
		{"funcs", warm.Funcs, last.Funcs, 0},
		{"tensors", warm.Tensors, last.Tensors, 0},
		{"memory", warm.Memory, last.Memory, 0},
		{"file descriptors", warm.Files, last.Files, 0},
		{"goroutines", warm.Goroutines, last.Goroutines, 0},
		{"threads", warm.Threads, last.Threads, moreThreads},
		{"thread states", warm.States, last.States, moreThreads},
		{"Python's objects", warm.Python, last.Python, morePython},
	} {
		if c.last > c.warm+c.more {
			v.Left = append(v.Left, fmt.Sprintf("%s: %d, then %d", c.name, c.warm, c.last))
		}
	}
	return v
}

// Sound says whether nothing grew.
func (v *verdict) Sound() bool { return len(v.Left) == 0 }

func (v *verdict) String() string {
	text := fmt.Sprintf("%d calls, resident memory %+.2f MiB (allowed %.2f)", v.Calls, float64(v.Grown)/(1<<20), float64(v.Allowed)/(1<<20))
	if v.Sound() {
		return "ok: " + text
	}
	return "GROWN: " + text + "\n  " + strings.Join(v.Left, "\n  ")
}
