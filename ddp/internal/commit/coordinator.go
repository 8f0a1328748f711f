package commit

import (
	"slices"
	"sync"
	"time"
)

// coordinator counts the votes. Members call handle and lost, on any goroutine.
type coordinator struct {
	mu         sync.Mutex
	send       []func(message) // by rank; nil: not there yet, or gone
	gone       []string        // by rank: why it takes part no more; "": it does
	step       uint64          // the one that is voted on; all before it are decided
	voted      []bool          // by rank
	no         *Failure        // of the step, the first one of those that say most
	grace      grace           // for a failure that says more than a weak one
	last       message         // the decision of the step before
	heard      []time.Time     // by rank
	since      time.Time       // the first vote on the step; zero: none yet
	supervised bool            // whether a timer of superviseLocked runs
	// compare says why a step that all ranks voted for does not count; nil: it is never so.
	compare  func(brought [][]byte) *Failure
	compared [][]byte // by rank: what its vote brought

	meeting uint64   // the one that ranks come to
	came    []bool   // by rank
	brought [][]byte // by rank
}

const lostReason = "its process is gone, or the way to it"

// grace is of one step.
type grace int

const (
	noGrace grace = iota
	inGrace
	afterGrace
)

// graceTime is what the coordinator waits for the failure from which a weak one follows: a worker's end
// is seen by its trainer some milliseconds after its peers have lost it.
const graceTime = 200 * time.Millisecond

func newCoordinator(size int, compare func([][]byte) *Failure) *coordinator {
	return &coordinator{send: make([]func(message), size), gone: make([]string, size), voted: make([]bool, size),
		heard: make([]time.Time, size), came: make([]bool, size), brought: make([][]byte, size),
		compare: compare, compared: make([][]byte, size)}
}

// join adds a member, whose messages go to send. It reports whether the rank was free.
func (c *coordinator) join(rank int, send func(message)) (ok, complete bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if rank < 0 || rank >= len(c.send) || c.send[rank] != nil || c.gone[rank] != "" {
		return false, false
	}
	c.send[rank] = send
	return true, !slices.ContainsFunc(c.send, func(f func(message)) bool { return f == nil })
}

// handle takes a member's message.
func (c *coordinator) handle(rank int, m message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.heard[rank] = time.Now()
	switch m.Kind {
	case vote:
		c.voteLocked(rank, m)
	case meet:
		c.meetLocked(rank, m)
	case withdraw:
		if m.Meeting == c.meeting {
			c.came[rank], c.brought[rank] = false, nil
			c.toLocked(rank, message{Kind: withdrawn, Meeting: m.Meeting, Step: m.Step})
		}
	case ping:
		c.toLocked(rank, message{Kind: pong})
	case bye:
		c.goneLocked(rank, "it closed its Reducer, after a failure of its own or fewer steps than others (ddp.Options.Join is for those)")
	}
}

// lost notes that the connection of a member has ended.
func (c *coordinator) lost(rank int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.goneLocked(rank, lostReason)
}

func (c *coordinator) voteLocked(rank int, m message) {
	if m.Step < c.step { // decided without it
		if m.Step == c.last.Step {
			c.toLocked(rank, c.last)
		}
		return
	}
	if m.Failure == nil || m.Failure.Over {
		c.voted[rank], c.compared[rank] = true, m.Data
	}
	c.noteLocked(m.Failure)
	if c.since.IsZero() {
		c.since = c.heard[rank]
	}
	c.tryDecideLocked()
	c.superviseLocked()
}

// superviseLocked sees to it that nobody waits for the vote of a rank that is frozen or cut off: such a
// rank is asked each pingTime whether it is there, and the step fails when it says nothing for
// answerTime. Steps shorter than pingTime are never looked at.
func (c *coordinator) superviseLocked() {
	if c.supervised || c.since.IsZero() {
		return
	}
	c.supervised = true
	time.AfterFunc(pingTime, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.supervised = false
		now := time.Now()
		if c.since.IsZero() || now.Sub(c.since) < pingTime {
			c.superviseLocked()
			return
		}
		for rank := 1; rank < len(c.voted); rank++ { // rank 0 is in this process
			switch {
			case c.voted[rank] || c.gone[rank] != "":
			case now.Sub(c.since) > answerTime && now.Sub(c.heard[rank]) > answerTime:
				c.noteLocked(&Failure{Rank: rank, Silent: true})
			default:
				c.toLocked(rank, message{Kind: ping})
			}
		}
		c.tryDecideLocked()
		c.superviseLocked()
	})
}

func (c *coordinator) goneLocked(rank int, why string) {
	if c.gone[rank] != "" {
		return
	}
	c.gone[rank], c.send[rank] = why, nil
	c.tryDecideLocked()
	c.endMeetingLocked()
}

// noteLocked keeps the failure of the step: one that ends it at once goes before one that is over, and
// a weak one comes between; of equal ones it is the first.
func (c *coordinator) noteLocked(f *Failure) {
	if f != nil && (c.no == nil || f.weight() > c.no.weight()) {
		c.no = f
	}
}

func (f *Failure) weight() int {
	switch {
	case f.Over:
		return 0
	case f.Weak:
		return 1
	}
	return 2
}

// endsLocked reports whether the step's failure ends it now, and lets a weak one wait.
func (c *coordinator) endsLocked() bool {
	switch {
	case c.no == nil || c.no.Over:
		return false
	case !c.no.Weak || c.grace == afterGrace:
		return true
	case c.grace == noGrace:
		c.grace = inGrace
		step := c.step
		time.AfterFunc(graceTime, func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			if c.step == step {
				c.grace = afterGrace
				c.tryDecideLocked()
			}
		})
	}
	return false
}

// tryDecideLocked decides the step, if that can be done. A rank that is gone votes no more, so the
// step after its last vote fails at once, before others wait for it in collectives.
func (c *coordinator) tryDecideLocked() {
	for {
		for rank, why := range c.gone {
			if why != "" && !c.voted[rank] {
				c.noteLocked(&Failure{Rank: rank, Gone: why})
			}
		}
		if !c.endsLocked() && slices.Contains(c.voted, false) {
			return
		}
		if c.no == nil && c.compare != nil && slices.ContainsFunc(c.compared, func(b []byte) bool { return b != nil }) {
			c.no = c.compare(c.compared)
		}
		c.last = message{Kind: decided, Step: c.step, Failure: c.no}
		c.step++
		c.no, c.grace, c.since = nil, noGrace, time.Time{}
		clear(c.voted)
		clear(c.compared)
		c.toAllLocked(c.last)
		if c.last.Failure != nil {
			return
		}
	}
}

func (c *coordinator) meetLocked(rank int, m message) {
	if m.Meeting != c.meeting {
		return
	}
	c.came[rank], c.brought[rank] = true, m.Data
	if c.endMeetingLocked() || slices.Contains(c.came, false) {
		return
	}
	c.nextMeetingLocked(message{Kind: met, Meeting: c.meeting, All: slices.Clone(c.brought)})
}

// endMeetingLocked ends a meeting that a rank cannot come to any more, if somebody waits in it. It
// reports whether it did.
func (c *coordinator) endMeetingLocked() bool {
	at := slices.IndexFunc(c.gone, func(why string) bool { return why != "" })
	if at < 0 || !slices.Contains(c.came, true) {
		return false
	}
	c.nextMeetingLocked(message{Kind: met, Meeting: c.meeting, Failure: &Failure{Rank: at, Gone: c.gone[at]}})
	return true
}

func (c *coordinator) nextMeetingLocked(m message) {
	c.meeting++
	clear(c.came)
	clear(c.brought)
	c.toAllLocked(m)
}

func (c *coordinator) toLocked(rank int, m message) {
	if send := c.send[rank]; send != nil {
		send(m)
	}
}

func (c *coordinator) toAllLocked(m message) {
	for rank := range c.send {
		c.toLocked(rank, m)
	}
}

// welcome says to all members that all have come.
func (c *coordinator) welcome() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.toAllLocked(message{Kind: welcome})
}
