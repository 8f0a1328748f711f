package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"pyhook/tensor"
	"pyhook/worker/internal/ipc"
)

// call is a request that the worker has not finished: a hook call, a collective, or
// another question.
type call struct {
	id     uint64
	hook   string // or what else is asked
	bucket int    // -1: none
	start  time.Time
	limit  time.Duration

	answered chan answer // the answer to the request; of capacity 1
	// done is called once, when the worker is done with a call whose answer was
	// outcomePending, or has ended; nil: the answer is all.
	done func(answer)
}

// answer is what the worker said.
type answer struct {
	outcome uint32
	tensor  *tensor.Tensor // of outcomeOther
	message *message       // as it came, if it did
	err     error
}

func (c *call) what() string {
	if c.bucket >= 0 {
		return fmt.Sprintf("hook %s of bucket %d", c.hook, c.bucket)
	}
	return c.hook
}

// finish ends a call: the process is gone, or said so.
func (c *call) finish(a answer) {
	select {
	case c.answered <- a:
	default:
	}
	if c.done != nil {
		c.done(a)
	}
}

// open puts a call on the list.
func (p *process) open(c *call) error {
	c.answered = make(chan answer, 1)
	c.start = time.Now()
	if c.limit == 0 {
		c.limit = p.cfg.Timeout
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gone {
		return p.failure.at(c.hook, c.bucket)
	}
	p.next++
	c.id = p.next
	p.calls[c.id] = c
	return nil
}

// drop takes a call off the list; false: it was not on it any more.
func (p *process) drop(c *call) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.calls[c.id] != c {
		return false
	}
	delete(p.calls, c.id)
	return true
}

// ask sends a request and waits for its answer. If ctx ends before, the call stays on the list, and
// supervise kills a process that never answers.
func (p *process) ask(ctx context.Context, what string, limit time.Duration, m *message, file *os.File) (*message, error) {
	c := &call{hook: what, bucket: -1, limit: limit}
	if err := p.open(c); err != nil {
		return nil, err
	}
	m.ID = c.id
	if err := p.post(m, file); err != nil {
		return nil, err
	}
	select {
	case a := <-c.answered:
		a.tensor.Close() // it is no hook's
		return a.message, a.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// post sends; if that fails the process has ended, or will.
func (p *process) post(m *message, file *os.File) error {
	if err := p.wire.Send(m, file); err != nil {
		p.kill(&Error{Code: ErrCrashed, Detail: "it does not take messages: " + err.Error()}, false)
		return p.failure
	}
	return nil
}

// receive handles what the worker sends, until its end.
func (p *process) receive() {
	defer close(p.read)
	defer p.wire.Drop()
	for {
		m, err := p.wire.Receive()
		if err == nil {
			err = m.check()
		}
		if err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) && !errors.Is(err, unix.ECONNRESET) {
				// Not here, as the end of the process waits for this function's.
				go p.kill(&Error{Code: ErrProtocol, Detail: err.Error(), Err: err}, true)
			}
			return
		}
		a := answer{message: m, err: m.Err.local()}
		if m.Result != nil {
			if a.outcome = m.Result.Outcome; a.outcome == outcomeOther {
				a.tensor, a.err = p.resultOf(m)
			}
		}
		switch m.Kind {
		case kindTrace:
			p.trace(m.Trace)
		case kindAnswer:
			p.mu.Lock()
			c := p.calls[m.ID]
			if c != nil && c.done == nil {
				delete(p.calls, m.ID) // also if ask has returned
			}
			p.mu.Unlock()
			if c == nil {
				a.tensor.Close()
				continue
			}
			select {
			case c.answered <- a:
			default: // a second answer
				a.tensor.Close()
			}
		case kindDone:
			p.mu.Lock()
			c := p.calls[m.Result.Call]
			if c != nil && c.done == nil {
				c = nil // a question, which waits for its answer
			} else {
				delete(p.calls, m.Result.Call)
			}
			p.mu.Unlock()
			if c == nil {
				a.tensor.Close()
				continue
			}
			// The answer may come after this, and finds no call then.
			select {
			case c.answered <- answer{outcome: outcomePending}:
			default:
			}
			c.done(a)
		}
	}
}

// resultOf maps a result in memory of its own.
func (p *process) resultOf(m *message) (*tensor.Tensor, error) {
	file, err := p.wire.File()
	if err != nil {
		return nil, err
	}
	defer file.Close()
	r, err := ipc.MapRegion(0, file, m.Result.Region.Bytes)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return r.Tensor(m.Result.Tensor)
}
