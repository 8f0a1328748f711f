package worker

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"pyhook/c10d"
	"pyhook/pyhook"
	"pyhook/tensor"
	"pyhook/worker/internal/ipc"
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
	id       uint64
	number   uint64 // the hook's
	hook     *pyhook.PythonCommHook
	bucket   *servedBucket
	future   *c10d.Future[c10d.Result]
	chain    c10d.Chain  // nil: not chained
	notified sync.Once   // kindDone is sent
	over     atomic.Bool // the chain is, by its Advance: what it issued is in its stream's order
}

// outgoing is a message with what is to be sent along.
type outgoing struct {
	message
	region *ipc.Region
}

func (s *server) newParameter(m *parameterMessage) error {
	data, err := s.tensor(m.Data)
	if err != nil {
		return err
	}
	store(s, s.params, m.ID, &c10d.Parameter{Name: m.Name, Shape: m.Shape, DType: m.DType, Device: m.Device, Data: data, Attributes: m.Attributes})
	return nil
}

func (s *server) newBucket(m *bucketMessage) (err error) {
	b := &servedBucket{}
	if b.buffer, err = s.tensor(m.Buffer); err != nil {
		return err
	}
	cfg := c10d.BucketConfig{Index: m.Index, Count: m.Count, Buffer: b.buffer, Offsets: m.Offsets, Lengths: m.Lengths, Sizes: m.Sizes}
	if cfg.Memory, err = s.memoryOf(b.buffer); err != nil {
		b.buffer.Close()
		return err
	}
	for _, p := range m.Params {
		cfg.Parameters = append(cfg.Parameters, find(s, s.params, p.ID))
	}
	if b.bucket, err = c10d.NewGradBucket(cfg); err != nil {
		b.buffer.Close()
		return err
	}
	former := remove(s, s.buckets, m.ID)
	store(s, s.buckets, m.ID, b)
	former.close()
	return nil
}

// isBound reports whether Python's main thread is for that hook.
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

// onThreadOf runs f, which calls Python code of a hook: on Python's main thread if that is the
// hook's, else here. Only one hook has that thread, as with pyhook's BindThread: the calls of two
// would hold each other up, and one may wait for the other over ranks.
func (s *server) onThreadOf(hook uint64, f func()) {
	if !s.isBound(hook) || s.rt.RunOnMain(context.Background(), f) != nil {
		f()
	}
}

// run calls a hook, and returns the answer.
func (s *server) run(m *runMessage) *outgoing {
	hook, bucket := find(s, s.hooks, m.Hook), find(s, s.buckets, m.Bucket)
	if hook == nil || bucket == nil {
		return failed(m.Call, fmt.Errorf("hook %d or bucket %d is not known to the worker: %w", m.Hook, m.Bucket, c10d.ErrClosed))
	}
	call := &servedCall{id: m.Call, number: m.Hook, hook: hook, bucket: bucket}
	err := bucket.begin()
	switch {
	case err != nil:
	case m.Chained:
		call.future, call.chain, err = hook.RunHookChained(context.Background(), bucket.bucket)
	default:
		call.future, err = hook.RunHook(context.Background(), bucket.bucket)
	}
	if err != nil {
		s.waitOut(bucket)
		return failed(m.Call, err)
	}
	// On a device the result is not there yet: other calls go on meanwhile.
	done := call.future.IsDone() && !call.onDevice()
	if call.chain != nil || !done {
		store(s, s.calls, call.id, call)
	}
	if !done {
		if call.chain == nil || !call.onDevice() {
			go s.notifyWhenDone(call)
		}
		return outcome(m.Call, outcomePending)
	}
	var result *outgoing
	call.notified.Do(func() { result = s.result(call) }) // the answer notifies
	return result
}

// outcome is a message with the outcome of a call.
func outcome(call uint64, outcome uint32) *outgoing {
	return &outgoing{message: message{Result: &resultMessage{Call: call, Outcome: outcome}}}
}

// failed is a message with the error of a call.
func failed(call uint64, err error) *outgoing {
	o := outcome(call, outcomeFailed)
	o.Err = remote(err)
	return o
}

// result reads a future that is done, and closes it.
func (s *server) result(c *servedCall) *outgoing {
	defer c.future.Close()
	full, err := c.read()
	if err != nil {
		s.waitOut(c.bucket)
		return failed(c.id, err)
	}
	return full
}

func (c *servedCall) read() (*outgoing, error) {
	value, err := c.future.Wait(context.Background())
	if err != nil {
		return nil, err
	}
	t, err := c.hook.ParseHookResult(c.bucket.bucket, value)
	if err != nil {
		return nil, err
	}
	defer t.Close()
	if m := c.bucket.bucket.Memory(); m != nil {
		if err := c.bucket.write(m, t); err != nil {
			return nil, c.onItsDevice(err)
		}
		return outcome(c.id, outcomeSame), nil
	}
	buffer := c.bucket.buffer
	same := t.Data() == buffer.Data() && t.DType() == buffer.DType() && t.IsContiguous() && t.Len() == buffer.Len()
	if same || t.Bytes() == 0 {
		return outcome(c.id, outcomeSame), nil
	}
	return c.copied(t)
}

// copied is a result in memory of its own, which the trainer maps.
func (c *servedCall) copied(t *tensor.Tensor) (*outgoing, error) {
	r, err := ipc.NewRegion(0, int(t.Bytes()))
	if err != nil {
		return nil, err
	}
	location := &ipc.Location{DType: t.DType(), Shape: t.Shape()}
	to, err := r.Tensor(location)
	if err != nil {
		r.Close()
		return nil, err
	}
	defer to.Close()
	if err := tensor.Copy(to, t); err != nil {
		r.Close()
		return nil, err
	}
	result := &resultMessage{Call: c.id, Outcome: outcomeOther, Tensor: location, Region: &regionMessage{Bytes: r.Len()}}
	return &outgoing{message{Result: result}, r}, nil
}

// notifyWhenDone notifies when a call is done.
func (s *server) notifyWhenDone(c *servedCall) {
	<-c.future.Done()
	s.notify(c)
}

// notify sends the result of a call that was pending, once.
func (s *server) notify(c *servedCall) {
	c.notified.Do(func() {
		result := s.result(c)
		if c.chain == nil {
			remove(s, s.calls, c.id)
		}
		s.sendResult(kindDone, 0, result)
	})
}

func (s *server) sendResult(kind kind, id uint64, o *outgoing) {
	o.Kind, o.ID = kind, id
	if o.region == nil {
		_ = s.wire.Send(&o.message, nil)
		return
	}
	_ = s.wire.Send(&o.message, o.region.File)
	o.region.Close()
}
