package worker

import (
	"context"
	"errors"
	"fmt"

	"pyhook/c10d"
	"pyhook/tensor"
)

// collective issues one of the group's and answers; kindDone follows.
func (s *server) collective(m *message) {
	future, memory, tensors, err := s.issue(m.Group)
	outcome := outcomePending
	if err != nil {
		closeAll(tensors)
		outcome = outcomeFailed
	}
	s.answer(m, &message{Result: &resultMessage{Call: m.ID, Outcome: outcome}}, err)
	if err != nil {
		return
	}
	go func() {
		_, err := future.Wait(context.Background())
		future.Close()
		if memory != nil {
			err = errors.Join(err, memory.Synchronize(context.Background()))
		}
		closeAll(tensors)
		done := &message{Kind: kindDone, Err: remote(err), Result: &resultMessage{Call: m.ID, Outcome: outcomeSame}}
		if err != nil {
			done.Result.Outcome = outcomeFailed
		}
		_ = s.wire.Send(done, nil)
	}()
}

// issue returns the future, and of tensors on a device the memory to wait for after it.
func (s *server) issue(m *groupMessage) (_ *c10d.Future[*tensor.Tensor], memory c10d.DeviceMemory, tensors []*tensor.Tensor, err error) {
	for i := range m.Tensors {
		t, err := s.tensor(&m.Tensors[i])
		if err != nil {
			return nil, nil, tensors, err
		}
		tensors = append(tensors, t)
	}
	if s.group == nil {
		return nil, nil, tensors, fmt.Errorf("%s before the start: %w", m.Op, c10d.ErrGroup)
	}
	if len(tensors) == 0 && m.Op != "barrier" {
		return nil, nil, tensors, fmt.Errorf("%s of no tensor: %w", m.Op, c10d.ErrGroup)
	}
	group := c10d.ProcessGroup(s.group)
	if len(tensors) > 0 {
		if memory, err = s.memoryOf(tensors[0]); err != nil {
			return nil, nil, tensors, err
		}
	}
	if memory != nil {
		group = memory.Group()
	}
	ctx := context.Background()
	var future *c10d.Future[*tensor.Tensor]
	switch m.Op {
	case "all_reduce":
		future, err = group.AllReduce(ctx, tensors[0], m.Reduce)
	case "broadcast":
		future, err = group.Broadcast(ctx, tensors[0], m.Root)
	case "all_gather":
		last := len(tensors) - 1
		future, err = group.AllGather(ctx, tensors[:last], tensors[last])
	case "barrier":
		var complete func(*tensor.Tensor, error)
		future, complete = c10d.NewFuture[*tensor.Tensor]()
		go func() { complete(nil, group.Barrier(ctx)) }()
	default:
		err = errors.New("no collective " + m.Op)
	}
	return future, memory, tensors, err
}

func closeAll(tensors []*tensor.Tensor) {
	for _, t := range tensors {
		t.Close()
	}
}
