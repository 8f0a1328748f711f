package pyhook

import (
	"context"
	"time"
)

// Store is a torch.distributed store, where ranks find each other.
type Store struct{ object *Object }

// NewTCPStore makes or joins a TCP store at host:port for size ranks; the master serves it.
// It waits until the store answers, and the master until all ranks have come, at most timeout
// or until ctx ends.
func (rt *Runtime) NewTCPStore(ctx context.Context, host string, port, size int, master bool, timeout time.Duration) (*Store, error) {
	return rt.newStore(ctx, "tcp_store", host, port, size, master, timeout.Seconds())
}

// NewFileStore makes or joins a store for size ranks, in a file that all of them reach.
func (rt *Runtime) NewFileStore(ctx context.Context, path string, size int) (*Store, error) {
	return rt.newStore(ctx, "file_store", path, size)
}

func (rt *Runtime) newStore(ctx context.Context, kind string, args ...any) (*Store, error) {
	object, err := rt.callPeers(ctx, func() (*Object, error) { return callModule("pyhook._runtime.collectives", kind, args...) })
	if err != nil {
		return nil, groupError("making a store", rt.Rank(), err)
	}
	return &Store{object}, nil
}

// Close drops the handle on the store. Idempotent.
func (s *Store) Close() { s.object.Close() }
