package main

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestWhatGrowsIsNamed(t *testing.T) {
	warm := sample{Calls: 1000, Resident: 100 << 20, Objects: 50, Funcs: 1, Tensors: 8, Memory: 9, Files: 20, Threads: 12, States: 6, Goroutines: 4, Python: 90_000}
	for name, test := range map[string]struct {
		change func(*sample)
		left   string // empty: nothing
	}{
		"nothing":                   {func(*sample) {}, ""},
		"less than before":          {func(s *sample) { s.Resident, s.Files = 90<<20, 19 }, ""},
		"memory within its limit":   {func(s *sample) { s.Calls += 3_000_000; s.Resident += 2 << 20 }, ""},
		"memory of a short run":     {func(s *sample) { s.Resident += 1<<20 - 1 }, ""},
		"memory beyond its limit":   {func(s *sample) { s.Calls += 3_000_000; s.Resident += 3 << 20 }, "resident memory: +3.00 MiB"},
		"a handle":                  {func(s *sample) { s.Objects++ }, "objects: 50, then 51"},
		"a tensor's memory":         {func(s *sample) { s.Memory += 2 }, "memory: 9, then 11"},
		"a file":                    {func(s *sample) { s.Files++ }, "file descriptors: 20, then 21"},
		"a few threads of Go's":     {func(s *sample) { s.Threads += 3 }, ""},
		"threads":                   {func(s *sample) { s.Threads += 9 }, "threads: 12, then 21"},
		"a goroutine":               {func(s *sample) { s.Goroutines++ }, "goroutines: 4, then 5"},
		"more of Python's objects":  {func(s *sample) { s.Python += 201 }, "Python's objects: 90000, then 90201"},
		"caches of Python's":        {func(s *sample) { s.Python += 200 }, ""},
		"a function that Go showed": {func(s *sample) { s.Funcs++ }, "funcs: 1, then 2"},
	} {
		t.Run(name, func(t *testing.T) {
			last := warm
			test.change(&last)
			v := judge(warm, last)
			if test.left == "" {
				assert.Empty(t, v.Left)
				assert.Contains(t, v.String(), "ok: ")
				return
			}
			assert.Equal(t, []string{test.left}, v.Left)
			assert.Contains(t, v.String(), "GROWN")
		})
	}
}
