package pyhook

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"pyhook/c10d"
	"pyhook/internal/ctxerr"
)

// meetingTimeout is python/pyhook/_meeting/meeting.py's MEETING_SECONDS; torchTimeout is torch's
// default_pg_timeout (torch/distributed/constants.py).
const (
	meetingTimeout = 5 * time.Minute
	torchTimeout   = 30 * time.Minute
)

// joinLimit is how long the ranks wait for each other. Where torch itself does all of it
// (a store, or an InitMethod with a query) it has one timeout for everything.
func (cfg *GroupConfig) joinLimit() time.Duration {
	_, query, _ := strings.Cut(cfg.InitMethod, "?")
	switch {
	case cfg.Store != nil || query != "":
		if cfg.Timeout > 0 {
			return cfg.Timeout
		}
		return torchTimeout
	case cfg.JoinTimeout > 0:
		return cfg.JoinTimeout
	case cfg.Timeout > 0:
		return cfg.Timeout
	}
	return meetingTimeout
}

// joinGrace is how long torch may take, past the timeout, to say what it waited for.
const joinGrace = 1250 * time.Millisecond

// InitProcessGroup joins the default group, so that unmodified hooks (which use
// torch.distributed's default group) find it. It waits for all ranks, at most a
// second longer than JoinTimeout, or until ctx ends. After 10 s each host says on stderr
// for whom.
//
// Where gloo by itself would listen on loopback, as it does on hosts whose name is
// 127.0.1.1 in /etc/hosts, and ranks are on other hosts, GLOO_SOCKET_IFNAME is set in
// Python's environment to the interface of the way to them, if it is not set.
//
// The error wraps c10d.ErrGroup and, where that is known, c10d.ErrJoinTimeout, c10d.ErrRank,
// c10d.ErrWorldSize, c10d.ErrAddress, c10d.ErrPortInUse, c10d.ErrNotAStore or
// c10d.ErrTorchVersion (the ranks' torch must be of one release). All ranks that have met get it.
// After one the group may be joined anew, but not where it says that torch still
// waits: inside the backend's own start torch cannot be called back, and ends by its
// timeout.
//
// Rank 0 serves the store at MASTER_ADDR, or PYHOOK_STORE_LISTEN, and at no other
// address, on torch 2.0 and later.
//
// Other ranks of the job may be plain Python that calls torch's init_process_group with env://
// or tcp://: torch counts them in the store, and the ranks then meet by torch's own protocol.
// That names no rank, so what such a rank does wrong is ErrJoinTimeout or ErrPeer. All ranks
// need one torch and one backend.
func (rt *Runtime) InitProcessGroup(ctx context.Context, cfg GroupConfig) (*TorchGroup, error) {
	object, err := rt.join(ctx, cfg)
	if err != nil {
		rank := rt.Rank()
		if cfg.Size != 0 {
			rank = cfg.Rank
		}
		return nil, groupError("joining", rank, err)
	}
	group, err := rt.newGroup(object)
	if err != nil {
		return nil, err
	}
	rt.rank.Store(int64(group.rank))
	rt.size.Store(int64(group.size))
	return group, nil
}

// join waits on a goroutine of its own: for another rank it may take minutes,
// and a launcher that stops the job kills what has not ended in half of one.
func (rt *Runtime) join(ctx context.Context, cfg GroupConfig) (*Object, error) {
	if ctx.Err() != nil {
		return nil, ctxerr.While(ctx, "not begun")
	}
	rank, size := cfg.Rank, cfg.Size
	if size < 0 {
		return nil, fmt.Errorf("%w: a world of %d\nhint: Size is the number of ranks", c10d.ErrWorldSize, size)
	}
	if size == 0 {
		rank, size = -1, -1
	}
	var store any
	if cfg.Store != nil {
		store = cfg.Store.object
	}
	done := make(chan joined, 1)
	go func() {
		var r joined
		rt.renewal.connections.during(func() {
			r.group, r.err = rt.bridge.Call("init_process_group", cfg.Backend, cfg.InitMethod, rank, size, cfg.Timeout.Seconds(), store, cfg.JoinTimeout.Seconds())
		})
		done <- r
	}()
	limit := cfg.joinLimit()
	late := time.NewTimer(limit + joinGrace)
	defer late.Stop()
	var why error
	select {
	case r := <-done:
		return r.group, r.err
	case <-ctx.Done():
		why = ctxerr.While(ctx, "waiting for the other ranks")
	case <-late.C:
		why = fmt.Errorf("%w: torch still waits, by %s, %s after the timeout of %s\nhint: a rank does not answer, frozen or cut off perhaps: "+
			"look at the other ranks' own errors, and end this process", c10d.ErrJoinTimeout, "InitMethod "+strconv.Quote(cfg.InitMethod), joinGrace, limit)
	}
	rt.abandonJoin(done)
	go func() {
		// On a goroutine: torch 1.13 may hold the GIL while it waits.
		_, _ = rt.bridge.CallValue("stop_joining")
	}()
	return nil, why
}

// joined is what a call that waits for other ranks returned.
type joined struct {
	group *Object
	err   error
}

// abandonJoin lets a call that waits for other ranks go on; its result is closed when it ends.
func (rt *Runtime) abandonJoin(done <-chan joined) {
	rt.joining.Add(1)
	go func() {
		r := <-done
		if r.err == nil {
			r.group.Close()
		}
		rt.joining.Add(-1)
	}()
}

// waitAbandoned waits joinGrace for abandoned joins: most end as soon as stop_joining ran.
func (rt *Runtime) waitAbandoned() error {
	for end := time.Now().Add(joinGrace); rt.joining.Load() > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			return groupError("closing", rt.Rank(), errors.New("torch still waits for the other ranks: end the process"))
		}
	}
	return nil
}
