package memgroup

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"pyhook/c10d/transport"
)

// letter is what a Send and its Recv have in common.
type letter struct {
	from, to int
	tag      transport.Tag
	inner    bool // of the group's collectives, and not of Group.Send
}

// waiting is a Send or Recv whose other half has not come.
type waiting struct {
	data   []byte
	sender bool
	done   chan struct{}
	err    error // set before done is closed
}

// mailbox brings Sends and Recvs together: whoever comes second copies.
type mailbox struct {
	mu      sync.Mutex
	closed  []bool
	retired map[retirement]bool
	open    map[letter][]*waiting // all of one letter are on one side
}

// retirement is a rank's, from the group of a generation.
type retirement struct {
	rank  int
	group uint64 // Tag.Group
}

func newMailbox(size int) *mailbox {
	return &mailbox{closed: make([]bool, size), retired: map[retirement]bool{}, open: map[letter][]*waiting{}}
}

func (m *mailbox) meet(ctx context.Context, l letter, data []byte, sender bool) error {
	if l.from < 0 || l.from >= len(m.closed) || l.to < 0 || l.to >= len(m.closed) {
		return fmt.Errorf("from rank %d to rank %d of %d", l.from, l.to, len(m.closed))
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	m.mu.Lock()
	for _, rank := range []int{l.from, l.to} {
		if m.closed[rank] || l.inner && m.retired[retirement{rank, l.tag.Group}] {
			m.mu.Unlock()
			return &ClosedError{rank}
		}
	}
	if queue := m.open[l]; len(queue) > 0 && queue[0].sender != sender {
		other := queue[0]
		m.remove(l, other)
		m.mu.Unlock()
		other.err = deliver(data, other.data, sender)
		close(other.done)
		return other.err
	}
	mine := &waiting{data: data, sender: sender, done: make(chan struct{})}
	m.open[l] = append(m.open[l], mine)
	m.mu.Unlock()
	select {
	case <-mine.done:
		return mine.err
	case <-ctx.Done():
	}
	m.mu.Lock()
	taken := !m.remove(l, mine)
	m.mu.Unlock()
	if taken { // the other half is copying: soon
		<-mine.done
		return mine.err
	}
	return context.Cause(ctx)
}

func deliver(mine, theirs []byte, sender bool) error {
	to, from := mine, theirs
	if sender {
		to, from = theirs, mine
	}
	if len(to) != len(from) {
		return fmt.Errorf("%d bytes are sent where %d are received", len(from), len(to))
	}
	copy(to, from)
	return nil
}

// remove reports whether w was there. The caller holds the lock.
func (m *mailbox) remove(l letter, w *waiting) bool {
	queue := m.open[l]
	i := slices.Index(queue, w)
	if i < 0 {
		return false
	}
	if m.open[l] = slices.Delete(queue, i, i+1); len(queue) == 1 {
		delete(m.open, l)
	}
	return true
}

func (m *mailbox) close(rank int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed[rank] = true
	m.failLocked(rank, func(letter) bool { return true })
}

// retire ends what the rank and others have under way, and will have, in the group of a generation.
func (m *mailbox) retire(rank int, group uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.retired[retirement{rank, group}] = true
	m.failLocked(rank, func(l letter) bool { return l.inner && l.tag.Group == group })
}

// failLocked fails the rank's letters that are of those.
func (m *mailbox) failLocked(rank int, of func(letter) bool) {
	for l, queue := range m.open {
		if l.from != rank && l.to != rank || !of(l) {
			continue
		}
		delete(m.open, l)
		for _, w := range queue {
			w.err = &ClosedError{rank}
			close(w.done)
		}
	}
}
