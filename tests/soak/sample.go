package main

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"pyhook/cbridge"
	"pyhook/tensor"
)

// sample is what a rank holds at one moment, with all garbage collected.
type sample struct {
	Seconds    float64 `json:"seconds"`
	Calls      int64   `json:"calls"` // of hooks, since the start
	Resident   int64   `json:"resident_bytes"`
	Objects    int64   `json:"objects"` // handles on Python objects
	Funcs      int64   `json:"funcs"`   // Go functions that Python holds
	Tensors    int64   `json:"tensors"`
	Memory     int64   `json:"memory"` // pieces of memory that tensors hold
	Files      int64   `json:"file_descriptors"`
	Threads    int64   `json:"threads"`
	States     int64   `json:"thread_states"` // of Python's
	Goroutines int64   `json:"goroutines"`
	Python     int64   `json:"python_objects"` // that its collector knows
}

const header = "  time      calls  resident  objects funcs tensors memory  files threads states goroutines   python"

func (s sample) String() string {
	return fmt.Sprintf("%6s %10d %5.1f MiB  %7d %5d %7d %6d  %5d %7d %6d %10d %8d",
		time.Duration(s.Seconds*float64(time.Second)).Round(time.Second), s.Calls, float64(s.Resident)/(1<<20),
		s.Objects, s.Funcs, s.Tensors, s.Memory, s.Files, s.Threads, s.States, s.Goroutines, s.Python)
}

// take collects all garbage and counts what is left.
func (w *worker) take() (sample, error) {
	s := sample{Seconds: time.Since(w.start).Seconds(), Calls: w.calls}
	for range 3 { // a ring may hold another, and go by way of a goroutine
		if _, err := w.python("gc", "collect"); err != nil {
			return s, err
		}
		runtime.GC()
		time.Sleep(5 * time.Millisecond)
	}
	objects, err := w.countObjects()
	if err != nil {
		return s, err
	}
	s.Python = objects
	// The C library keeps freed memory of each of its arenas otherwise.
	if _, err := w.trim.Invoke([]any{0}, nil); err != nil {
		return s, err
	}
	debug.FreeOSMemory()
	s.Objects, s.Funcs, s.Tensors, s.Memory = cbridge.LiveObjects(), cbridge.LiveFuncs(), tensor.LiveTensors(), tensor.LiveMemory()
	s.States, s.Goroutines = cbridge.ThreadStates(), int64(runtime.NumGoroutine())
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return s, err
	}
	s.Files = int64(len(files))
	if s.Threads, err = status("Threads:"); err != nil {
		return s, err
	}
	kib, err := status("VmRSS:")
	s.Resident = kib << 10
	return s, err
}

// countObjects is len(gc.get_objects()).
func (w *worker) countObjects() (int64, error) {
	list, err := w.gc.Call("get_objects")
	if err != nil {
		return 0, err
	}
	defer list.Close()
	n, err := list.CallValue("__len__")
	if err != nil {
		return 0, err
	}
	return n.(int64), nil
}

// status is a number of /proc/self/status.
func status(name string) (int64, error) {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if rest, found := strings.CutPrefix(line, name); found {
			return strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
		}
	}
	return 0, fmt.Errorf("/proc/self/status has no %s", name)
}
