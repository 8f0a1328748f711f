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
	h.report.Close()
	h.report = nil
	if on != nil {
		var err error
		h.report, err = cbridge.NewFunc("pyhook_collective", func(args []*Object) (any, error) {
			c, err := collective(args)
			if err == nil {
				on(c)
			}
			return nil, err
		})
		if err != nil {
			return h.fail(nil, c10d.ErrClosed, err)
		}
	}
	return h.wrapAgain()
}

// collective reads the arguments that TracedHook of python/pyhook/_runtime/trace.py reports.
func collective(args []*Object) (c c10d.Collective, err error) {
	var numbers [4]int64
	if len(args) != len(numbers) {
		return c, fmt.Errorf("%d arguments for a collective", len(args))
	}
	for i, arg := range args {
		if numbers[i], err = cbridge.As[int64](arg); err != nil {
			return c, fmt.Errorf("argument %d of a collective: %w", i, err)
		}
	}
	return c10d.Collective{Bucket: int(numbers[0]), Start: time.Unix(0, numbers[1]), End: time.Unix(0, numbers[2]), Bytes: numbers[3]}, nil
}

// CheckCollectives makes a failure of a collective that the hook issues in a call of
// RunHook, and never looks at, an error of that call's future:
// c10d.ErrCollective. RunHookChained does so always, and in callbacks too. A call costs
// half a microsecond more from then on. Not while a call is inside.
func (h *PythonCommHook) CheckCollectives() error {
	if h.checks {
		return nil
	}
	h.checks = true
	err := h.wrapAgain()
	h.checks = err == nil // else the next call tries again
	return err
}

func (h *PythonCommHook) wrapAgain() error {
	if err := h.wrap(); err != nil {
		return h.fail(nil, c10d.ErrClosed, err)
	}
	return nil
}

// wrap makes what RunHook calls: the hook, or what is around it.
func (h *PythonCommHook) wrap() error {
	var report any
	if h.report != nil {
		report = h.report
	}
	callable, err := h.rt.bridge.Call("wrapped", h.hook, h.ncclForms, report, h.checks)
	if err != nil {
		return err
	}
	h.callable.Close()
	h.callable = callable
	return nil
}
