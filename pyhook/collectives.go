package pyhook

import (
	"fmt"
	"time"

	"pyhook/c10d"
	"pyhook/cbridge"
)

// TraceCollectives has on called for every collective that the hook issues from now on and
// whose future it takes: in its call, and with RunHookChained in its callbacks
// too. One that it waits for without a future is a part of the call. on runs on
// whichever thread completes the collective, holding the GIL: it must be short
// and must not call Python. nil ends it. It must not be called during a hook call. A hook
// call costs some microseconds more meanwhile.
func (h *PythonCommHook) TraceCollectives(on func(c10d.Collective)) error {
	if on == nil {
		h.traced.Close()
		h.traced = nil
		return h.checkAgain()
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
	traced, err := h.rt.bridge.Call("TracedHook", h.presented(), report)
	if err != nil {
		return h.fail(nil, c10d.ErrClosed, err)
	}
	h.traced.Close()
	h.traced = traced
	return h.checkAgain()
}

// collective reads the arguments that TracedHook of python/pyhook/_runtime/trace.py reports.
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
	if h.checked != nil {
		return nil
	}
	checked, err := h.rt.bridge.Call("CheckedHook", h.traceable())
	if err != nil {
		return h.fail(nil, c10d.ErrClosed, err)
	}
	h.checked = checked
	return nil
}

// checkAgain wraps the present callable anew, if CheckCollectives was called.
func (h *PythonCommHook) checkAgain() error {
	if h.checked == nil {
		return nil
	}
	h.checked.Close()
	h.checked = nil
	return h.CheckCollectives()
}

// callable returns what RunHook calls: the hook, or its outermost wrapper.
func (h *PythonCommHook) callable() *Object {
	if h.checked != nil {
		return h.checked
	}
	return h.traceable()
}

func (h *PythonCommHook) traceable() *Object {
	if h.traced != nil {
		return h.traced
	}
	return h.presented()
}

// presented returns the hook, or its wrapper that gives it NCCL's forms of futures.
func (h *PythonCommHook) presented() *Object {
	if h.formed != nil {
		return h.formed
	}
	return h.hook
}
