package transport

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"pyhook/c10d"
)

// mover is what collectives are derived from.
type mover interface {
	// exchange sends send[r] to rank r and receives recv[r] from it; nil is no
	// message. The own rank's is copied.
	exchange(ctx context.Context, tag Tag, send, recv [][]byte) error
	// gather copies in of rank i into out[i]; all have in's length.
	gather(ctx context.Context, tag Tag, out [][]byte, in []byte) error
	// broadcast copies data of rank root to the others'.
	broadcast(ctx context.Context, tag Tag, data []byte, root int) error
}

func moverOf(t Transport, rank int) (mover, error) {
	if p, ok := t.(PointToPoint); ok {
		return messages{p, rank, t.Size()}, nil
	}
	if g, ok := t.(AllGatherer); ok {
		return gathering{g, rank, t.Size()}, nil
	}
	return nil, fmt.Errorf("%w: the transport %T has neither Send and Recv nor AllGather, of which everything is made", c10d.ErrGroup, t)
}

// messages moves by Send and Recv.
type messages struct {
	p          PointToPoint
	rank, size int
}

func (m messages) exchange(ctx context.Context, tag Tag, send, recv [][]byte) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	errs := make(chan error, 2*m.size)
	started := 0
	start := func(f func(context.Context, int, Tag, []byte) error, rank int, data []byte, doing string) {
		started++
		go func() {
			err := f(ctx, rank, tag, data)
			if err != nil {
				err = fmt.Errorf("%s rank %d: %w", doing, rank, err)
				cancel(err)
			}
			errs <- err
		}()
	}
	for step := range m.size {
		// Each rank begins with its neighbour, so that not all meet at rank 0.
		to := (m.rank + step) % m.size
		from := (m.rank - step + m.size) % m.size
		if step == 0 {
			copy(recv[to], send[to])
			continue
		}
		if send[to] != nil {
			start(m.p.Send, to, send[to], "to")
		}
		if recv[from] != nil {
			start(m.p.Recv, from, recv[from], "from")
		}
	}
	// All must be out before the memory may be touched; the first error stays.
	var first error
	for range started {
		if err := <-errs; err != nil && first == nil {
			first = err
		}
	}
	if cause := context.Cause(ctx); first != nil && cause != nil && !errors.Is(first, cause) {
		return fmt.Errorf("%w: %w", first, cause)
	}
	return first
}

func (m messages) gather(ctx context.Context, tag Tag, out [][]byte, in []byte) error {
	send := make([][]byte, m.size)
	for i := range send {
		send[i] = in
	}
	return m.exchange(ctx, tag, send, out)
}

func (m messages) broadcast(ctx context.Context, tag Tag, data []byte, root int) error {
	send, recv := make([][]byte, m.size), make([][]byte, m.size)
	if m.rank != root {
		recv[root] = data
		return m.exchange(ctx, tag, send, recv)
	}
	for i := range send {
		send[i] = data
	}
	return m.exchange(ctx, tag, send, recv)
}

// gathering moves by AllGather: everybody gets everything and takes its part.
type gathering struct {
	g          AllGatherer
	rank, size int
}

func (m gathering) exchange(ctx context.Context, tag Tag, send, recv [][]byte) error {
	lengths := make([]byte, 8*m.size)
	var mine []byte
	for i, data := range send {
		binary.LittleEndian.PutUint64(lengths[8*i:], uint64(len(data)))
		mine = append(mine, data...)
	}
	all := rows(m.size, len(lengths))
	if err := m.gather(ctx, tag, all, lengths); err != nil {
		return err
	}
	length := func(from, to int) int { return int(binary.LittleEndian.Uint64(all[from][8*to:])) }
	longest := 0
	for from := range m.size {
		total := 0
		for to := range m.size {
			total += length(from, to)
		}
		longest = max(longest, total)
	}
	parts := rows(m.size, longest)
	if err := m.gather(ctx, tag, parts, append(mine, make([]byte, longest-len(mine))...)); err != nil {
		return err
	}
	for from := range m.size {
		at := 0
		for to := range m.rank {
			at += length(from, to)
		}
		if n := length(from, m.rank); recv[from] != nil && n != len(recv[from]) {
			return fmt.Errorf("from rank %d: %d bytes where %d are expected", from, n, len(recv[from]))
		}
		copy(recv[from], parts[from][at:])
	}
	return nil
}

func (m gathering) gather(ctx context.Context, _ Tag, out [][]byte, in []byte) error {
	if len(in) == 0 {
		return nil
	}
	return m.g.AllGather(ctx, out, in)
}

func (m gathering) broadcast(ctx context.Context, tag Tag, data []byte, root int) error {
	all := rows(m.size, len(data))
	if err := m.gather(ctx, tag, all, data); err != nil {
		return err
	}
	copy(data, all[root])
	return nil
}

func rows(n, length int) [][]byte {
	out := make([][]byte, n)
	for i := range out {
		out[i] = make([]byte, length)
	}
	return out
}
