package flat

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"unsafe"

	"pyhook/c10d"
	"pyhook/ddp"
	"pyhook/internal/overlap"
	"pyhook/tensor"
)

// Sync reduces a model's gradients over the ranks. Ready may be called from any goroutine; Step
// when the backward pass is over, by one goroutine.
type Sync[T Element] struct {
	params  []Param[T]
	opts    ddp.Options
	seen    []*c10d.Parameter // as hooks see them
	reducer *ddp.Reducer

	marked  []atomic.Bool // by parameter: Ready was called in this step
	carried []atomic.Bool // by parameter: Ready was called in NoSync
	noSync  atomic.Bool
	ranges  []overlap.Range // checkOverlap's
}

// New checks that all ranks have the same model, gives every rank rank 0's values (unless there are
// none) and makes the buckets: a collective. opts are those of ddp.NewReducer but StaticGraph; the
// group and the hook stay the caller's. What is wrong on one rank is an error on every rank.
func New[T Element](ctx context.Context, params []Param[T], opts ddp.Options) (*Sync[T], error) {
	if err := ddp.ShareError(ctx, opts.Group, check(params, opts)); err != nil {
		return nil, err
	}
	seen, err := parameters(params)
	if err != nil {
		return nil, err
	}
	s := &Sync[T]{params: slices.Clone(params), opts: opts, seen: seen, marked: make([]atomic.Bool, len(params)), carried: make([]atomic.Bool, len(params))}
	if s.reducer, err = ddp.NewReducer(ctx, seen, opts); err == nil {
		err = s.broadcast(ctx)
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// broadcast gives every rank rank 0's values, if the ranks have them.
func (s *Sync[T]) broadcast(ctx context.Context) error {
	have := []byte{0}
	if s.params[0].Value != nil {
		have[0] = 1
	}
	all, err := c10d.AllGatherBytes(ctx, s.opts.Group, have)
	if err != nil {
		return err
	}
	for rank := range all {
		if all[rank][0] != all[0][0] {
			return fmt.Errorf("flat, rank %d: of the ranks 0 and %d one gives values (Param.Value) and one does not", s.opts.Group.Rank(), rank)
		}
	}
	if have[0] == 0 {
		return nil
	}
	return ddp.BroadcastParameters(ctx, s.opts.Group, s.seen)
}

// Reducer returns the Reducer, for its LoggingData, Buckets and Order. It is closed with s; the
// gradients in it are s's.
func (s *Sync[T]) Reducer() *ddp.Reducer { return s.reducer }

// Parameters are those of the Reducer, as hooks see them: over the trainer's values. They belong to
// s.
func (s *Sync[T]) Parameters() []*c10d.Parameter { return slices.Clone(s.seen) }

// Ready says that parameter i's gradient is complete in this step, and copies it: when that
// completes a bucket its hook starts, while the backward pass goes on. To call it is optional: Step
// does for those that were not marked. The error is ddp.Reducer.Ready's, ErrMoved, or that the
// gradient has another length.
func (s *Sync[T]) Ready(i int) error {
	if i < 0 || i >= len(s.params) || s.noSync.Load() {
		if err := s.reducer.Ready(i); err != nil {
			return err
		}
		s.carried[i].Store(true)
		return nil
	}
	if !s.marked[i].CompareAndSwap(false, true) {
		// Not the Reducer's to find: it may not know yet of a Ready that copies still.
		return &ddp.ParameterError{Rank: s.opts.Group.Rank(), Names: []string{s.params[i].Name}, Code: ddp.ErrReadyTwice,
			Hint: "call Step once after each backward pass; a shared parameter is ready when its last use is"}
	}
	err := s.copyIn(i)
	if err == nil {
		err = s.reducer.Ready(i)
	}
	if err != nil {
		s.marked[i].Store(false)
	}
	return err
}

func (s *Sync[T]) copyIn(i int) error {
	if err := moved(s.params[i], s.seen[i]); err != nil {
		return err
	}
	view, err := s.view(i)
	if err != nil {
		return err
	}
	copy(view, *s.params[i].Grad)
	return nil
}

// view returns parameter i's gradient in its bucket, which is as long as the trainer's.
func (s *Sync[T]) view(i int) ([]T, error) {
	view, err := tensor.Slice[T](s.reducer.Gradient(i))
	if errors.Is(err, tensor.ErrClosed) {
		return nil, ddp.ErrClosed
	}
	if err == nil && len(view) != len(*s.params[i].Grad) {
		err = fmt.Errorf("the gradient has %d elements now, and its shape is %v", len(*s.params[i].Grad), s.seen[i].Shape)
	}
	if err != nil {
		return nil, fmt.Errorf("flat, rank %d: %s: %w", s.opts.Group.Rank(), s.params[i].Name, err)
	}
	return view, nil
}

// Step reduces the gradients and, if all of that went well, writes them to the trainer's slices. A
// parameter that Ready has not marked is taken as it is; with Options.Unused = ddp.UnusedFind as
// one that this step has not used here: it gets the other ranks' gradient, or stays as it is if no
// rank used it. On an error, which is ddp.Reducer.Wait's, and tells every rank what Ready
// found wrong on one, the slices are as they were. In NoSync it does nothing.
func (s *Sync[T]) Step(ctx context.Context) error {
	if s.noSync.Load() {
		return nil
	}
	find := s.opts.Unused == ddp.UnusedFind
	failed := s.checkOverlap()
	for i := len(s.params) - 1; i >= 0; i-- { // as buckets begin with the last, their hooks run meanwhile
		if failed == nil && !s.marked[i].Load() && (!find || s.carried[i].Load()) {
			failed = s.Ready(i)
		}
	}
	if failed != nil {
		failed = s.reducer.Leave(ctx, failed) // so that the other ranks hear why
	} else {
		_, failed = s.reducer.Wait(ctx)
	}
	for i := range s.params {
		s.marked[i].Store(false)
		s.carried[i].Store(false)
	}
	if failed != nil {
		return failed
	}
	return s.copyOut(find)
}

// checkOverlap says which two gradients share memory, which could hold the result of one only.
func (s *Sync[T]) checkOverlap() error {
	s.ranges = s.ranges[:0]
	for i, p := range s.params {
		low, bytes := uintptr(unsafe.Pointer(unsafe.SliceData(*p.Grad))), len(*p.Grad)*dtypeOf[T]().Size()
		s.ranges = append(s.ranges, overlap.Range{Low: low, High: low + uintptr(bytes), Of: i})
	}
	a, b, found := overlap.Find(s.ranges)
	if !found {
		return nil
	}
	return &ddp.ParameterError{Rank: s.opts.Group.Rank(), Names: []string{s.params[a].Name, s.params[b].Name}, Code: ddp.ErrOverlap,
		Hint: "give the slices of Param.Grad memory of their own; list a parameter that the model uses twice once"}
}

func (s *Sync[T]) copyOut(find bool) error {
	for i, p := range s.params {
		if find && !s.reducer.Used(i) {
			continue
		}
		view, err := s.view(i)
		if err != nil {
			return err
		}
		copy(*p.Grad, view)
	}
	return nil
}

// NoSync runs f, in which Step does nothing: the trainer adds gradients up in its slices, and the
// next Step reduces the sums. Every rank must do the same steps in it. The error is f's, or that a
// step is under way.
func (s *Sync[T]) NoSync(f func() error) error {
	return s.reducer.NoSync(func() error {
		s.noSync.Store(true)
		defer s.noSync.Store(false)
		return f()
	})
}

// Digest checks that all ranks' values are the same bits: a collective, to call every so many
// steps. See ddp.VerifyValues for the error, which names the first parameter that differs.
func (s *Sync[T]) Digest(ctx context.Context) error {
	err := error(nil)
	if s.params[0].Value == nil {
		err = errors.New("flat: Digest without values: give Param.Value")
	}
	for i, p := range s.params {
		err = errors.Join(err, moved(p, s.seen[i]))
	}
	if err := ddp.ShareError(ctx, s.opts.Group, err); err != nil {
		return err
	}
	return ddp.VerifyValues(ctx, s.opts.Group, s.seen)
}

// Join is what a rank does that has no more data while others may have: see ddp.Reducer.Join, which
// needs Options.Join. Then it gives every rank the values of one that was in the last step, if
// there are values. Every rank calls it at the end.
func (s *Sync[T]) Join(ctx context.Context) error {
	last, err := s.reducer.Join(ctx)
	if err != nil || last < 0 || s.params[0].Value == nil {
		return err
	}
	return ddp.BroadcastParametersFrom(ctx, s.opts.Group, last, s.seen)
}

// Close frees the buckets and unpins the values. The hook and the group stay the caller's.
// Idempotent.
func (s *Sync[T]) Close() {
	if s.reducer != nil {
		s.reducer.Close()
	}
	closeParameters(s.seen)
}
