package ddp

import (
	"errors"
	"slices"

	"pyhook/pyhook"
)

// unfinished returns the future of what a failed hook call has under way on its bucket, or nil.
func unfinished(err error) *pyhook.Future {
	var failed *pyhook.HookError
	if errors.As(err, &failed) {
		return failed.Unfinished()
	}
	return nil
}

// freeRetired, with the mutex held, frees retired buckets that nothing works on any more, so that
// steps that are cut short do not add up. The last one of its parameters stays: the trainer may
// have its address.
func (r *Reducer) freeRetired() {
	last := map[int]*bucket{} // by first parameter
	for _, b := range r.retired {
		last[b.params[0]] = b
	}
	r.retired = slices.DeleteFunc(r.retired, func(b *bucket) bool {
		free := last[b.params[0]] != b && isDone(b.busy)
		if free {
			b.free()
		}
		return free
	})
}
