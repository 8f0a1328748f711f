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
	future, tensors, err := s.issue(m.Group)
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
		closeAll(tensors)
		done := &message{Kind: kindDone, Err: remote(err), Result: &resultMessage{Call: m.ID, Outcome: outcomeSame}}
		if err != nil {
			done.Result.Outcome = outcomeFailed
		}
		_ = s.wire.Send(done, nil)
	}()
}

func (s *server) issue(m *groupMessage) (*c10d.Future[*tensor.Tensor], []*tensor.Tensor, error) {
	var tensors []*tensor.Tensor
	for i := range m.Tensors {
		t, err := s.tensor(&m.Tensors[i])
		if err != nil {
			return nil, tensors, err
		}
		tensors = append(tensors, t)
	}
	if s.group == nil {
		return nil, tensors, fmt.Errorf("%s before the start: %w", m.Op, c10d.ErrGroup)
	}
	if len(tensors) == 0 && m.Op != "barrier" {
		return nil, tensors, fmt.Errorf("%s of no tensor: %w", m.Op, c10d.ErrGroup)
	}
	ctx := context.Background()
	var future *c10d.Future[*tensor.Tensor]
	var err error
	switch m.Op {
	case "all_reduce":
		future, err = s.group.AllReduce(ctx, tensors[0], m.Reduce)
	case "broadcast":
		future, err = s.group.Broadcast(ctx, tensors[0], m.Root)
	case "all_gather":
		last := len(tensors) - 1
		future, err = s.group.AllGather(ctx, tensors[:last], tensors[last])
	case "barrier":
		var complete func(*tensor.Tensor, error)
		future, complete = c10d.NewFuture[*tensor.Tensor]()
		go func() { complete(nil, s.group.Barrier(ctx)) }()
	default:
		err = errors.New("no collective " + m.Op)
	}
	return future, tensors, err
}

func closeAll(tensors []*tensor.Tensor) {
	for _, t := range tensors {
		t.Close()
	}
}
