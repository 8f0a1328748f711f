package commit

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"sync"
	"time"
)

// answerTime is how long a member that waits for a decision bears it that the coordinator says nothing,
// not even that it is there, which it is asked each pingTime: on a healthy rank 0 an answer takes less
// than a millisecond. The coordinator bears as much of a rank for whose vote others wait.
//
// noTime is the same for a member whose vote ends the step, or whose context has ended: it fails whatever
// the answer, which only names the rank where it began, and the member has waited for its own timeout.
const (
	answerTime = 4 * time.Second
	noTime     = answerTime / 4
	pingTime   = answerTime / 16
)

// ErrNoAnswer says that rank 0, which counts the votes, did not answer: it is frozen or cut off. What
// the step's outcome is on the other ranks is not known here.
var ErrNoAnswer = errors.New("rank 0, which counts the ranks' votes, does not answer")

// Member is one rank's side. Steps count up from 0, the same on every rank. For any goroutine.
type Member struct {
	rank      int
	out       func(message) error
	leave     func()
	onFailure func(step uint64, f *Failure)

	mu        sync.Mutex
	heard     time.Time           // of the coordinator
	changed   chan struct{}       // closed, and made anew, when something below has changed
	decisions map[uint64]*Failure // by step; those that Vote has not returned
	meeting   uint64              // the next one to come to
	attempt   uint64              // counts Meets
	meetings  map[uint64]message
	ended     error // of the connection
	joined    bool  // all members have come
}

func newMember(rank int, onFailure func(uint64, *Failure)) *Member {
	return &Member{rank: rank, onFailure: onFailure, changed: make(chan struct{}), decisions: map[uint64]*Failure{}, meetings: map[uint64]message{}}
}

// take takes a message of the coordinator's.
func (m *Member) take(in message) {
	if in.Kind == ping {
		_ = m.out(message{Kind: pong}) // where that fails the connection's end is seen
		return
	}
	m.mu.Lock()
	m.heard = time.Now()
	switch in.Kind {
	case welcome:
		m.joined = true
	case decided:
		m.decisions[in.Step] = in.Failure
	case met:
		m.meetings[in.Meeting] = in
	case withdrawn:
		if in.Step == m.attempt { // else of one that was given up without an answer
			m.meetings[in.Meeting] = in
		}
	}
	m.wakeLocked()
	m.mu.Unlock()
	if in.Kind == decided && in.Failure != nil && m.onFailure != nil {
		go m.onFailure(in.Step, in.Failure) // the coordinator's mutex may be held here
	}
}

func (m *Member) end(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ended == nil {
		m.ended = err
	}
	m.wakeLocked()
}

func (m *Member) wakeLocked() {
	close(m.changed)
	m.changed = make(chan struct{})
}

// wait waits until done, with the mutex held, reports true.
func (m *Member) wait(ctx context.Context, done func() bool) error {
	for {
		m.mu.Lock()
		if done() {
			m.mu.Unlock()
			return nil
		}
		changed, ended := m.changed, m.ended
		m.mu.Unlock()
		if ended != nil {
			return ended
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// waitOnline is wait, but gives up when the coordinator is not there: nothing was heard of it for patience.
func (m *Member) waitOnline(ctx context.Context, patience time.Duration, done func() bool) error {
	begin := time.Now()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	asking := time.AfterFunc(pingTime, func() {
		for ctx.Err() == nil {
			m.mu.Lock()
			heard := m.heard
			m.mu.Unlock()
			if time.Since(begin) > patience && time.Since(heard) > patience {
				cancel(fmt.Errorf("nothing was heard of it for %v", patience))
				return
			}
			_ = m.out(message{Kind: ping}) // where that fails the connection's end is seen
			select {
			case <-ctx.Done():
			case <-time.After(pingTime):
			}
		}
	})
	defer asking.Stop()
	return m.wait(ctx, done)
}

// Vote gives this rank's vote on a step, nil for yes, and returns the decision, nil where the step
// counts. brought goes to Join's compare, nil does not. If ctx ends first the vote becomes a no with the cause that why gives, unless the step is
// decided by then. The error is ErrNoAnswer, or a *GoneError of rank 0.
func (m *Member) Vote(ctx context.Context, step uint64, no *Failure, brought []byte, why func(error) []byte) (*Failure, error) {
	if err := m.out(message{Kind: vote, Step: step, Failure: no, Data: brought}); err != nil {
		return nil, m.noAnswer(err)
	}
	decided := func() bool { _, ok := m.decisions[step]; return ok }
	patience := answerTime
	if no != nil && !no.Over {
		patience = noTime
	}
	if err := m.waitOnline(ctx, patience, decided); err != nil {
		if ctx.Err() == nil {
			return nil, m.noAnswer(err)
		}
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), noTime)
		defer cancel()
		err := m.out(message{Kind: vote, Step: step, Failure: &Failure{Rank: m.rank, Cause: why(context.Cause(ctx))}})
		if err == nil {
			err = m.wait(late, decided)
		}
		if err != nil {
			return nil, m.noAnswer(err)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	outcome := m.decisions[step]
	maps.DeleteFunc(m.decisions, func(of uint64, _ *Failure) bool { return of <= step })
	return outcome, nil
}

// Fail votes no as soon as this rank fails, and does not wait: Vote does that later.
func (m *Member) Fail(step uint64, f *Failure) {
	_ = m.out(message{Kind: vote, Step: step, Failure: f}) // Vote says what is wrong
}

// Meet waits until every rank has called it, and returns what each brought, by rank. The n-th Meet
// of one rank meets the n-th of the others. The error is that rank 0 does not answer, the context's,
// or that a rank cannot come any more, a *GoneError. After the context's error the rank counts as
// not come, and may call Meet again.
func (m *Member) Meet(ctx context.Context, mine []byte) ([][]byte, error) {
	m.mu.Lock()
	n := m.meeting
	m.attempt++
	attempt := m.attempt
	m.mu.Unlock()
	if err := m.out(message{Kind: meet, Meeting: n, Data: mine}); err != nil {
		return nil, m.noAnswer(err)
	}
	answered := func() bool { _, ok := m.meetings[n]; return ok }
	if err := m.wait(ctx, answered); err != nil {
		if ctx.Err() == nil {
			return nil, m.noAnswer(err)
		}
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), noTime)
		defer cancel()
		if err = m.out(message{Kind: withdraw, Meeting: n, Step: attempt}); err == nil {
			err = m.wait(late, answered)
		}
		if err != nil {
			return nil, errors.Join(context.Cause(ctx), m.noAnswer(err))
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	in := m.meetings[n]
	delete(m.meetings, n)
	if in.Kind == withdrawn {
		return nil, context.Cause(ctx)
	}
	m.meeting++
	if in.Failure != nil {
		return nil, &GoneError{in.Failure.Rank, in.Failure.Gone}
	}
	return in.All, nil
}

// GoneError says that a rank takes part no more.
type GoneError struct {
	Rank   int
	Reason string
}

func (e *GoneError) Error() string {
	return fmt.Sprintf("rank %d takes part no more: %s", e.Rank, e.Reason)
}

func (m *Member) noAnswer(err error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var gone *GoneError
	if errors.As(m.ended, &gone) {
		return gone
	}
	return fmt.Errorf("%w: %w", ErrNoAnswer, err)
}

// Close leaves: to the other ranks every later step is one that failed. Idempotent.
func (m *Member) Close() {
	m.mu.Lock()
	left := m.ended != nil
	m.mu.Unlock()
	if !left {
		_ = m.out(message{Kind: bye}) // whoever cannot be told will see the connection's end
	}
	m.end(net.ErrClosed)
	m.leave()
}
