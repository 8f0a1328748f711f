package memgroup

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"pyhook/c10d"
	"pyhook/c10d/transport"
)

// ErrClosed: a rank's Close, or its Retire. It is a *ClosedError.
var ErrClosed = errors.New("the rank is closed")

// ClosedError says which rank is gone, or left the group's generation. It is ErrClosed for errors.Is.
type ClosedError struct{ Rank int }

func (e *ClosedError) Error() string { return fmt.Sprintf("rank %d is closed", e.Rank) }

// Unwrap returns ErrClosed.
func (e *ClosedError) Unwrap() error { return ErrClosed }

// Group is one rank: a c10d.RenewableGroup (its collectives are a transport.Group's) and a
// transport.Transport with Send and Recv.
type Group struct {
	*transport.Group
	mail    *mailbox
	renewal *renewal
}

// New makes the ranks of a group: none if size is not positive.
func New(size int) []*Group {
	return NewConfig(size, transport.Config{})
}

// Run runs f for each rank of a new group, on a goroutine of its own, and returns their errors by rank.
// The group of a rank whose f failed is closed, so that no other waits for it.
func Run(size int, f func(group *Group) error) []error {
	errs := make([]error, size)
	var all sync.WaitGroup
	for rank, group := range New(size) {
		all.Go(func() {
			if errs[rank] = f(group); errs[rank] != nil {
				group.Close()
			}
		})
	}
	all.Wait()
	return errs
}

// NewConfig is New with a timeout, or with another name than "memory".
func NewConfig(size int, cfg transport.Config) []*Group {
	size = max(size, 0)
	if cfg.Name == "" {
		cfg.Name = "memory"
	}
	mail := newMailbox(size)
	groups := make([]*Group, size)
	for rank := range groups {
		group, err := transport.New(&end{mail, rank}, cfg)
		if err != nil {
			panic(err) // cannot be: an end has what a Transport needs, and rank < size
		}
		groups[rank] = &Group{group, mail, newRenewal(group, mail)}
	}
	return groups
}

// Send gives data to rank to's Recv of this tag, and returns when that has it.
// No tag meets those of the group's collectives.
func (g *Group) Send(ctx context.Context, to int, tag transport.Tag, data []byte) error {
	return g.mail.meet(ctx, letter{g.Rank(), to, tag, false}, data, true)
}

// Recv takes what rank from sends with this tag. See Send.
func (g *Group) Recv(ctx context.Context, from int, tag transport.Tag, data []byte) error {
	return g.mail.meet(ctx, letter{from, g.Rank(), tag, false}, data, false)
}

// Close ends this rank: what it and what others do with it fails with a
// *ClosedError. Idempotent.
func (g *Group) Close() {
	g.mail.close(g.Rank())
	g.Group.Close()
}

// end is the transport of a rank's transport.Group.
type end struct {
	mail *mailbox
	rank int
}

func (e *end) Rank() int { return e.rank }
func (e *end) Size() int { return len(e.mail.closed) }

func (e *end) Send(ctx context.Context, to int, tag transport.Tag, data []byte) error {
	return e.mail.meet(ctx, letter{e.rank, to, tag, true}, data, true)
}

func (e *end) Recv(ctx context.Context, from int, tag transport.Tag, data []byte) error {
	return e.mail.meet(ctx, letter{from, e.rank, tag, true}, data, false)
}

var (
	_ c10d.RenewableGroup    = (*Group)(nil)
	_ transport.Transport    = (*Group)(nil)
	_ transport.PointToPoint = (*Group)(nil)
)
