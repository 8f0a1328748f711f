package worker

import (
	"context"
	"fmt"
	"sync"

	"pyhook/c10d"
	"pyhook/pyhook"
	"pyhook/tensor"
)

// servedBucket is the trainer's bucket, over the same memory.
type servedBucket struct {
	bucket *c10d.GradBucket
	buffer *tensor.Tensor
}

func (b *servedBucket) close() {
	if b != nil {
		b.bucket.Close()
		b.buffer.Close()
	}
}

// servedCall is one that is not done, or whose chain the trainer has.
type servedCall struct {
	id     uint64
	number uint64 // the hook's
	hook   *pyhook.PythonCommHook
	bucket *servedBucket
	future *c10d.Future[c10d.Result]
	chain  c10d.Chain // nil: not chained
	told   sync.Once  // kindDone is sent
}

// outgoing is a message with what is to be sent along.
type outgoing struct {
	message
	region *region
}

func (s *server) newParameter(m *parameterMessage) error {
	data, err := s.tensor(m.Data)
	if err != nil {
		return err
	}
	put(s, s.params, m.ID, &c10d.Parameter{Name: m.Name, Shape: m.Shape, DType: m.DType, Data: data, Attributes: m.Attributes})
	return nil
}

func (s *server) newBucket(m *bucketMessage) (err error) {
	b := &servedBucket{}
	if b.buffer, err = s.tensor(m.Buffer); err != nil {
		return err
	}
	cfg := c10d.BucketConfig{Index: m.Index, Count: m.Count, Buffer: b.buffer, Offsets: m.Offsets, Lengths: m.Lengths, Sizes: m.Sizes}
	for _, p := range m.Params {
		cfg.Parameters = append(cfg.Parameters, find(s, s.params, p.ID))
	}
	if b.bucket, err = c10d.NewGradBucket(cfg); err != nil {
		b.buffer.Close()
		return err
	}
	former := take(s, s.buckets, m.ID)
	put(s, s.buckets, m.ID, b)
	former.close()
	return nil
}

// serveCalls runs the hooks that are asked for in the mailbox, one after another.
func (s *server) serveCalls() {
	var spin spinner
	var served uint64
	asked := func() bool { return s.box.request.Load() != served }
	ready := func() bool { return asked() || s.thread.Waiting() }
	for {
		for !spin.wait(ready) {
			s.box.workerAsleep.Store(true)
			if ready() {
				s.box.workerAsleep.Store(false)
				break
			}
			<-s.wake
			spin.slept()
		}
		s.thread.Serve()
		if !asked() {
			continue
		}
		served = s.box.request.Load()
		call := s.box.call
		outcome, full := s.runOnThread(&runMessage{Call: call, Hook: s.box.hook, Bucket: s.box.bucket, Chained: s.box.chained})
		s.box.outcome = outcome
		s.box.reply.Store(served)
		sleeps := s.box.parentAsleep.CompareAndSwap(served, 0)
		switch {
		case full != nil:
			s.sendResult(kindAnswer, call, full)
		case sleeps:
			_ = s.wire.send(&message{Kind: kindAnswer, ID: call, Result: &resultMessage{Call: call, Outcome: outcome}}, nil)
		}
	}
}

// runOnThread is run, by serveCalls. Its thread is the first hook's alone, as in
// pyhook.BindThread: other hooks must not be held up by that one, nor hold it up.
func (s *server) runOnThread(m *runMessage) (outcome uint32, full *outgoing) {
	if s.isBound(m.Hook) {
		return s.run(m)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		outcome, full = s.run(m)
	}()
	for {
		select {
		case <-done:
			return outcome, full
		case <-s.wake:
			s.thread.Serve()
		}
	}
}

// isBound says whether Python's main thread is for that hook.
func (s *server) isBound(hook uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bound != 0 && hook == s.bound
}

func (s *server) unbind(hook uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if hook == s.bound {
		s.bound = 0
	}
}

// onThreadOf runs f, which calls Python code of a hook, where that is called.
func (s *server) onThreadOf(hook uint64, f func()) {
	if !s.isBound(hook) || s.rt.RunOnMain(context.Background(), f) != nil {
		f()
	}
}

// run calls a hook. What cannot be said by the outcome alone is in full.
func (s *server) run(m *runMessage) (outcome uint32, full *outgoing) {
	fail := func(err error) (uint32, *outgoing) {
		return outcomeFailed, &outgoing{message: message{Err: remote(err), Result: &resultMessage{Call: m.Call, Outcome: outcomeFailed}}}
	}
	hook, bucket := find(s, s.hooks, m.Hook), find(s, s.buckets, m.Bucket)
	if hook == nil || bucket == nil {
		return fail(fmt.Errorf("hook %d or bucket %d is not known to the worker: %w", m.Hook, m.Bucket, c10d.ErrClosed))
	}
	call := &servedCall{id: m.Call, number: m.Hook, hook: hook, bucket: bucket}
	var err error
	if m.Chained {
		call.future, call.chain, err = hook.RunHookChained(context.Background(), bucket.bucket)
	} else {
		call.future, err = hook.RunHook(context.Background(), bucket.bucket)
	}
	if err != nil {
		return fail(err)
	}
	done := call.future.IsDone()
	if call.chain != nil || !done {
		put(s, s.calls, call.id, call)
	}
	if !done {
		go func() {
			<-call.future.Done()
			s.tell(call)
		}()
		return outcomePending, nil
	}
	// The answer tells.
	call.told.Do(func() { outcome, full = call.result() })
	return outcome, full
}

// result reads a future that is done, and closes it.
func (c *servedCall) result() (uint32, *outgoing) {
	defer c.future.Close()
	fail := func(err error) (uint32, *outgoing) {
		return outcomeFailed, &outgoing{message: message{Err: remote(err), Result: &resultMessage{Call: c.id, Outcome: outcomeFailed}}}
	}
	value, err := c.future.Wait(context.Background())
	if err != nil {
		return fail(err)
	}
	t, err := c.hook.ParseHookResult(c.bucket.bucket, value)
	if err != nil {
		return fail(err)
	}
	defer t.Close()
	if t.Bytes() == 0 || t.Data() == c.bucket.buffer.Data() && t.DType() == c.bucket.buffer.DType() && t.IsContiguous() && t.Len() == c.bucket.buffer.Len() {
		return outcomeSame, nil
	}
	full, err := c.copied(t)
	if err != nil {
		return fail(err)
	}
	return outcomeOther, full
}

// copied is a result in memory of its own, which the trainer maps.
func (c *servedCall) copied(t *tensor.Tensor) (*outgoing, error) {
	r, err := newRegion(0, int(t.Bytes()))
	if err != nil {
		return nil, err
	}
	place := &tensorMessage{DType: t.DType(), Shape: t.Shape()}
	to, err := r.tensor(place)
	if err != nil {
		r.close()
		return nil, err
	}
	defer to.Close()
	if err := tensor.Copy(to, t); err != nil {
		r.close()
		return nil, err
	}
	result := &resultMessage{Call: c.id, Outcome: outcomeOther, Tensor: place, Region: &regionMessage{Bytes: len(r.memory)}}
	return &outgoing{message{Result: result}, r}, nil
}

// tell sends what came of a call that was pending, once.
func (s *server) tell(c *servedCall) {
	c.told.Do(func() {
		outcome, full := c.result()
		if full == nil {
			full = &outgoing{message: message{Result: &resultMessage{Call: c.id, Outcome: outcome}}}
		}
		if c.chain == nil {
			take(s, s.calls, c.id)
		}
		s.sendResult(kindDone, 0, full)
	})
}

func (s *server) sendResult(kind kind, id uint64, o *outgoing) {
	o.Kind, o.ID = kind, id
	if o.region == nil {
		_ = s.wire.send(&o.message, nil)
		return
	}
	_ = s.wire.send(&o.message, o.region.file)
	o.region.close()
}

func (s *server) advance(id uint64) (*message, error) {
	call := find(s, s.calls, id)
	if call == nil || call.chain == nil {
		return nil, fmt.Errorf("call %d has no chain: %w", id, c10d.ErrClosed)
	}
	var more bool
	var err error
	s.onThreadOf(call.number, func() { more, err = call.chain.Advance(context.Background()) })
	// Whoever advances looks at the future next.
	if call.future.IsDone() {
		s.tell(call)
	}
	return &message{More: more}, err
}

// closeChain gives up the collectives that a call has not issued yet, and waits for
// those that are under way: then nothing writes to the bucket any more.
func (s *server) closeChain(id uint64) {
	call := take(s, s.calls, id)
	if call == nil || call.chain == nil {
		return
	}
	defer call.chain.Close()
	if call.future.IsDone() {
		return
	}
	if chain, ok := call.chain.(c10d.DrainingChain); ok {
		_ = chain.Drain(context.Background()) // an error ends them, too
	}
	call.told.Do(func() {
		err := fmt.Errorf("given up before its last collectives: %w", c10d.ErrClosed)
		call.future.Close()
		s.sendResult(kindDone, 0, &outgoing{message: message{Err: remote(err), Result: &resultMessage{Call: id, Outcome: outcomeFailed}}})
	})
}
