package c10d

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
)

// Attachment is what another package hangs on a bucket or a parameter: Python's objects, a worker's
// shared memory. Close is called with the owner's, or by Detach.
type Attachment interface{ Close() }

// attachments are kept by keys that the packages choose. The list is replaced and never changed, so
// that looking one up, which each hook call does, needs no lock.
type attachments struct {
	list atomic.Pointer[[]attached] // nil: none
	mu   sync.Mutex                 // held by who replaces the list; never while an attachment is made, closed or used

	closed bool
}

type attached struct {
	key   any
	value Attachment
}

func (a *attachments) all() []attached {
	if list := a.list.Load(); list != nil {
		return *list
	}
	return nil
}

func (a *attachments) find(key any) Attachment {
	for _, one := range a.all() {
		if one.key == key {
			return one.value
		}
	}
	return nil
}

// attach returns the attachment of key; make makes it if there is none. Of several that are made at
// once the first is kept, and the others are closed.
func (a *attachments) attach(key any, make func() (Attachment, error)) (Attachment, error) {
	if found := a.find(key); found != nil {
		return found, nil
	}
	if a.isClosed() {
		return nil, fmt.Errorf("%w", ErrClosed)
	}
	made, err := make()
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	found, closed := a.find(key), a.closed
	if found == nil && !closed {
		list := append(slices.Clone(a.all()), attached{key, made})
		a.list.Store(&list)
	}
	a.mu.Unlock()
	switch {
	case found != nil:
		made.Close()
		return found, nil
	case closed:
		made.Close()
		return nil, fmt.Errorf("%w", ErrClosed)
	}
	return made, nil
}

// detach drops value, if it is key's, and closes it.
func (a *attachments) detach(key any, value Attachment) {
	a.mu.Lock()
	before := a.all()
	list := slices.DeleteFunc(slices.Clone(before), func(one attached) bool { return one.key == key && one.value == value })
	a.list.Store(&list)
	a.mu.Unlock()
	if len(list) < len(before) {
		value.Close()
	}
}

func (a *attachments) isClosed() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.closed
}

// dropAll closes all; with end nothing can be attached any more.
func (a *attachments) dropAll(end bool) {
	a.mu.Lock()
	a.closed = a.closed || end
	list := a.list.Swap(nil)
	a.mu.Unlock()
	if list == nil {
		return
	}
	for _, one := range *list {
		one.value.Close()
	}
}
