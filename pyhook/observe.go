package pyhook

import (
	"fmt"
	"time"

	"pyhook/c10d"
	"pyhook/cbridge"
)

// TraceCollectives tells on of every collective that the hook issues from now on and
// whose future it takes: in its call, and with RunHookChained in its callbacks
// too. One that it waits for without a future is a part of the call. on runs on
// whichever thread completes the collective, holding the GIL: it must be short
// and must not call Python. nil ends it. Not while a call is inside. A call
// costs some microseconds more meanwhile.
func (h *PythonCommHook) TraceCollectives(on func(c10d.Collective)) error {
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
		return h.fail(nil, c10d.ErrClosed, err)
	}
	defer report.Close()
	observed, err := h.rt.bridge.Call("Observed", h.presented(), report)
	if err != nil {
		return h.fail(nil, c10d.ErrClosed, err)
	}
	h.observed.Close()
	h.observed = observed
	return h.rewatch()
}

// collective reads what python/pyhook/_ordered.py's Observed reports.
func collective(args []*Object) (c10d.Collective, error) {
	var numbers [4]int64
	if len(args) != len(numbers) {
		return c10d.Collective{}, fmt.Errorf("%d arguments for a collective", len(args))
	}
	for i, arg := range args {
		value, err := arg.Value()
		if err != nil {
			return c10d.Collective{}, err
		}
		n, ok := value.(int64)
		if !ok {
			return c10d.Collective{}, fmt.Errorf("argument %d of a collective is %v", i, value)
		}
		numbers[i] = n
	}
	return c10d.Collective{Bucket: int(numbers[0]), Start: time.Unix(0, numbers[1]), End: time.Unix(0, numbers[2]), Bytes: numbers[3]}, nil
}

// CheckCollectives makes a failure of a collective that the hook issues in a call of
// RunHook, and never looks at, an error of that call's future:
// c10d.ErrCollective. RunHookChained does so always, and in callbacks too. A call costs
// half a microsecond more from then on. Not while a call is inside.
func (h *PythonCommHook) CheckCollectives() error {
	if h.watched != nil {
		return nil
	}
	watched, err := h.rt.bridge.Call("Watched", h.observable())
	if err != nil {
		return h.fail(nil, c10d.ErrClosed, err)
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
	return h.CheckCollectives()
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
