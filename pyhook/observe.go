package pyhook

import (
	"fmt"
	"time"

	"pyhook/cbridge"
)

// Collective is one that a hook issued, from when the hook took its future to
// when that was done.
type Collective struct {
	Bucket     int
	Start, End time.Time
	Bytes      int64 // of the tensors that it left on this rank; 0 if it failed
}

// Observe tells on of every collective that the hook issues from now on and
// whose future it takes: in its call, and with RunHookChained in its callbacks
// too. One that it waits for without a future is a part of the call. on runs on
// whichever thread completes the collective, holding the GIL: it must be short
// and must not call Python. nil ends it. Not while a call is inside. A call
// costs some microseconds more meanwhile.
func (h *PythonCommHook) Observe(on func(Collective)) error {
	if on == nil {
		h.observed.Close()
		h.observed = nil
		return h.rewatch()
	}
	report, err := cbridge.NewFunc("pyhook_collective", func(args []*Object) (any, error) {
		c, err := collective(args)
		if err == nil {
			on(c)
		}
		return nil, err
	})
	if err != nil {
		return h.fail(nil, ErrClosed, err)
	}
	defer report.Close()
	observed, err := h.rt.bridge.Call("Observed", h.presented(), report)
	if err != nil {
		return h.fail(nil, ErrClosed, err)
	}
	h.observed.Close()
	h.observed = observed
	return h.rewatch()
}

// collective reads what python/pyhook/_ordered.py's Observed reports.
func collective(args []*Object) (Collective, error) {
	var numbers [4]int64
	if len(args) != len(numbers) {
		return Collective{}, fmt.Errorf("%d arguments for a collective", len(args))
	}
	for i, arg := range args {
		value, err := arg.Value()
		if err != nil {
			return Collective{}, err
		}
		n, ok := value.(int64)
		if !ok {
			return Collective{}, fmt.Errorf("argument %d of a collective is %v", i, value)
		}
		numbers[i] = n
	}
	return Collective{Bucket: int(numbers[0]), Start: time.Unix(0, numbers[1]), End: time.Unix(0, numbers[2]), Bytes: numbers[3]}, nil
}

// WatchCollectives makes a failure of a collective that the hook issues in a call of
// RunHook or RunSparseHook, and never looks at, an error of that call's future:
// ErrCollective. RunHookChained does so always, and in callbacks too. A call costs
// half a microsecond more from then on. Not while a call is inside.
func (h *PythonCommHook) WatchCollectives() error {
	if h.watched != nil {
		return nil
	}
	watched, err := h.rt.bridge.Call("Watched", h.observable())
	if err != nil {
		return h.fail(nil, ErrClosed, err)
	}
	h.watched = watched
	return nil
}

// rewatch makes what watches watch the present callable.
func (h *PythonCommHook) rewatch() error {
	if h.watched == nil {
		return nil
	}
	h.watched.Close()
	h.watched = nil
	return h.WatchCollectives()
}

// callable is the hook, or what watches or observes it.
func (h *PythonCommHook) callable() *Object {
	if h.watched != nil {
		return h.watched
	}
	return h.observable()
}

func (h *PythonCommHook) observable() *Object {
	if h.observed != nil {
		return h.observed
	}
	return h.presented()
}

// presented is the hook, or what gives it NCCL's forms of futures.
func (h *PythonCommHook) presented() *Object {
	if h.formed != nil {
		return h.formed
	}
	return h.hook
}
