package ddp

import (
	"errors"
	"slices"

	"pyhook/c10d"
)

// unfinished returns the future of what a failed hook call has under way on its bucket, or nil.
func unfinished(err error) *c10d.Future[c10d.Result] {
	var failed *c10d.Error
	if errors.As(err, &failed) {
		return failed.Unfinished
	}
	return nil
}

// freeRetiredLocked frees retired buckets that nothing works on any more, so that
// steps that are cut short do not add up. The last one of its parameters stays: the trainer may
// have its address.
func (r *Reducer) freeRetiredLocked() {
	last := map[int]*bucket{} // by first parameter
	for _, b := range r.retired {
		last[b.params[0]] = b
	}
	r.retired = slices.DeleteFunc(r.retired, func(b *bucket) bool {
		free := last[b.params[0]] != b && b.busy.IsDone()
		if free {
			b.free()
		}
		return free
	})
}
