package pyhook

import (
	"slices"
	"sync"
	"sync/atomic"
	"weak"
)

// slot is a handle on a Python object that is, or holds, a process group: another object comes in
// its place when the groups are retired or renewed. For any goroutine.
type slot struct {
	object atomic.Pointer[Object]
	closed atomic.Bool
	slots  *slots
}

// get returns the present object; it stays the slot's, which may close it at any time.
func (s *slot) get() *Object { return s.object.Load() }

func (s *slot) replace(o *Object) {
	s.object.Swap(o).Close()
	if s.closed.Load() {
		o.Close()
	}
}

// close closes the object. Idempotent.
func (s *slot) close() {
	if s == nil || s.closed.Swap(true) {
		return
	}
	s.slots.remove(s)
	s.get().Close()
}

// slots are the open slots of a Runtime. One that is forgotten is not kept.
type slots struct {
	mu  sync.Mutex
	all map[weak.Pointer[slot]]struct{}
}

// add makes a slot of o, which it takes over.
func (s *slots) add(o *Object) *slot {
	added := &slot{slots: s}
	added.object.Store(o)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all == nil {
		s.all = map[weak.Pointer[slot]]struct{}{}
	}
	s.all[weak.Make(added)] = struct{}{}
	return added
}

func (s *slots) remove(one *slot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, weak.Make(one))
}

// open returns those that are open and not of None.
func (s *slots) open() (open []*slot) {
	s.mu.Lock()
	for pointer := range s.all {
		if one := pointer.Value(); one != nil {
			open = append(open, one)
		} else {
			delete(s.all, pointer)
		}
	}
	s.mu.Unlock()
	return slices.DeleteFunc(open, func(one *slot) bool { return one.get().IsNone() })
}
