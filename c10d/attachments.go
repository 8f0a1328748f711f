package c10d

import (
	"fmt"
	"sync"
)

// Attachment is what another package hangs on a bucket or a parameter: Python's objects, a worker's
// shared memory. Close is called with the owner's, or by Detach.
type Attachment interface{ Close() }

// attachments are kept by keys that the packages choose.
type attachments struct {
	mu     sync.Mutex // never held while an attachment is made, closed or used
	closed bool
	list   []attached
}

type attached struct {
	key   any
	value Attachment
}

func (a *attachments) find(key any) Attachment {
	for i := range a.list {
		if a.list[i].key == key {
			return a.list[i].value
		}
	}
	return nil
}

// attach returns the attachment of key; make makes it if there is none. Of several that are made at
// once the first is kept, and the others are closed.
func (a *attachments) attach(key any, make func() (Attachment, error)) (Attachment, error) {
	a.mu.Lock()
	found, closed := a.find(key), a.closed
	a.mu.Unlock()
	if found != nil {
		return found, nil
	}
	if closed {
		return nil, fmt.Errorf("%w", ErrClosed)
	}
	made, err := make()
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	found, closed = a.find(key), a.closed
	if found == nil && !closed {
		a.list = append(a.list, attached{key, made})
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
	found := false
	for i := range a.list {
		if a.list[i].key == key && a.list[i].value == value {
			a.list = append(a.list[:i:i], a.list[i+1:]...)
			found = true
			break
		}
	}
	a.mu.Unlock()
	if found {
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
	list := a.list
	a.list = nil
	a.mu.Unlock()
	for _, one := range list {
		one.value.Close()
	}
}
