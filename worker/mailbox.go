package worker

import (
	"runtime"
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

	workerAsleep flag
	// The request whose reply the parent sleeps for; 0: it does not. By its number, or
	// a worker that is late with one reply could clear what is meant for the next.
	parentAsleep line

	heartbeat line // the worker counts it up
	ending    flag // the worker's groups are destroyed, and Python comes to its end

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
	// spinFor is longer than a wake-up by the kernel takes, also on a machine with
	// much else to do: so whoever spins meets one that had slept, and from then on
	// neither does.
	spinFor = 300 * time.Microsecond
	// In a training step there are milliseconds between calls, and spinning only
	// takes time from others. So after so many waits that took longer than
	// worthwhile it is done for a moment only.
	worthwhile = time.Millisecond
	vainAtMost = 8
	spinShort  = time.Microsecond
)

// oneCPU: whoever spins keeps the other side from running.
var oneCPU = runtime.NumCPU() == 1

// spinner waits for what comes soon, or not at all.
type spinner struct {
	vain  int // waits in a row that took too long
	start time.Time
}

// wait returns whether ready came to be while it spun. Otherwise the caller sleeps,
// and calls slept.
func (s *spinner) wait(ready func() bool) bool {
	limit := spinFor
	if s.vain > vainAtMost || oneCPU {
		limit = spinShort
	}
	s.start = time.Now()
	for i := 1; ; i++ {
		if ready() {
			s.vain = 0
			return true
		}
		if i%32 == 0 && time.Since(s.start) > limit {
			return false
		}
	}
}

// slept counts a wait that is over now.
func (s *spinner) slept() {
	if time.Since(s.start) > worthwhile {
		s.vain++
	} else {
		s.vain = 0
	}
}
