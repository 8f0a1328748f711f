package worker

import (
	"sync/atomic"
	"time"
	"unsafe"
)

// mailbox is the page that both processes map: one hook call at a time goes
// through it without a system call, as long as the other side is looking.
//
// Who waits first spins. Before it sleeps it sets its asleep and looks once more;
// who has written into the box and finds asleep set clears it and sends a message
// on the socket. (Go's atomics are sequentially consistent, also over processes.)
type mailbox struct {
	request line // the number of the call that is asked for
	reply   line // the number of the call that was answered last

	workerAsleep, parentAsleep flag

	heartbeat line // the worker counts it up

	// Written before request, by the parent.
	call, hook, bucket uint64
	chained            bool
	// Written before reply, by the worker.
	outcome uint32
}

// Each on a cache line of its own.
type line struct {
	atomic.Uint64
	_ [56]byte
}

type flag struct {
	atomic.Bool
	_ [60]byte
}

const mailboxBytes = 4096

func mailboxIn(r *region) *mailbox {
	const _ = uint(mailboxBytes - unsafe.Sizeof(mailbox{}))
	return (*mailbox)(r.base())
}

const (
	// spinFor is a little more than two wake-ups by the kernel cost: whoever
	// spins longer could have slept.
	spinFor = 50 * time.Microsecond
	// In a training step there are milliseconds between calls, and spinning only
	// takes time from others. So after so many vain attempts they become short,
	// but for every probeEvery'th.
	vainAtMost = 8
	spinShort  = time.Microsecond
	probeEvery = 64
)

// spinner waits for what comes soon, or not at all.
type spinner struct{ vain int }

func (s *spinner) wait(ready func() bool) bool {
	limit := spinFor
	if s.vain > vainAtMost && s.vain%probeEvery != 0 {
		limit = spinShort
	}
	for start, i := time.Now(), 1; ; i++ {
		if ready() {
			s.vain = 0
			return true
		}
		if i%32 == 0 && time.Since(start) > limit {
			s.vain++
			return false
		}
	}
}
