package pyhook

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"pyhook/c10d"
	"pyhook/cbridge"
	"pyhook/internal/ctxerr"
)

// renewal is the c10d.Renewal of all torch groups of a Runtime: hooks may use each of them, and
// torch destroys its default group together with all others. python/pyhook/_renewal/groups.py does it.
type renewal struct {
	rt          *Runtime
	slots       slots
	connections connections
	generation  atomic.Int64
	renewing    chan struct{} // has room for the one that renews
	attempts    atomic.Int64  // of Renew

	mu      sync.Mutex
	python  *Object       // a Renewal of _renewal/groups.py; nil before the first Retire
	retired chan struct{} // closed when Python's part of Retire is over; nil: not retired
	err     error         // of that part
}

func newRenewal(rt *Runtime) *renewal { return &renewal{rt: rt, renewing: make(chan struct{}, 1)} }

// errRetired is the cause of what a retired group is used for.
var errRetired = &c10d.Error{
	Code: c10d.ErrOutOfStep, Rank: -1, Bucket: -1, Detail: "the group is retired: a step failed on some rank",
	Hint: "call Recover on every rank (ddp.Reducer.Recover; ddp.Retry does), which makes the groups anew",
}

// Renewal is shared by the default group and its sub-groups, and ends and renews those too that
// Python code has made. On gloo Retire ends the connections at once, whatever refers to the groups;
// other groups end when the last reference is dropped, of a hook call that is inside perhaps.
//
// Renew needs the store by which the ranks met. It makes the default group anew with its backend and
// timeout, then the sub-groups, in the order of their making, and puts them where hooks, states,
// modules and this package's handles hold the former ones. The error is a *c10d.Error, which is
// c10d.ErrGroup and says on each rank where the cause is: for whom was waited when ctx ended, or what
// holds a former group in a way that it cannot be replaced.
func (g *TorchGroup) Renewal() c10d.Renewal { return g.rt.renewal }

// Ranks returns the size of the default group: see c10d.Renewal.
func (r *renewal) Ranks() int { return int(r.rt.size.Load()) }

// Generation: see c10d.Renewal.
func (r *renewal) Generation() int { return int(r.generation.Load()) }

// check returns errRetired if the groups are retired.
func (r *renewal) check() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.retired != nil {
		return errRetired
	}
	return nil
}

// Retire: see c10d.Renewal.
func (r *renewal) Retire() { r.retire() }

// Retired: see c10d.Renewal.
func (r *renewal) Retired() bool { return r.check() != nil }

// retire returns what is closed when Python's part is over.
func (r *renewal) retire() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.retired != nil {
		return r.retired
	}
	over := make(chan struct{})
	r.retired = over
	r.connections.end()
	go func() {
		defer close(over)
		err := r.swap("retire")
		r.mu.Lock()
		defer r.mu.Unlock()
		r.err = err
	}()
	return over
}

// Renew: see c10d.Renewal and TorchGroup.Renewal.
func (r *renewal) Renew(ctx context.Context) error {
	if err := r.renew(ctx); err != nil {
		return groupError("renewing the groups", r.rt.Rank(), err)
	}
	return nil
}

func (r *renewal) renew(ctx context.Context) error {
	if ctx.Err() != nil {
		return ctxerr.While(ctx, "not begun")
	}
	select {
	case r.renewing <- struct{}{}:
	case <-ctx.Done():
		return ctxerr.While(ctx, "waiting until torch gives up an earlier attempt")
	}
	attempt := r.attempts.Add(1)
	over := r.retire()
	done := make(chan error, 1)
	r.rt.joining.Add(1)
	go func() {
		defer r.rt.joining.Add(-1)
		<-over
		err := r.makeAnew(attempt)
		<-r.renewing
		done <- err
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	give := time.NewTimer(joinGrace)
	defer give.Stop()
	for {
		go func() { _, _ = r.object().CallValue("cancel", attempt) }() // torch may hold the GIL
		select {
		case err := <-done:
			var python *PythonError
			if errors.As(err, &python) && strings.HasSuffix(python.Type, ".Cancelled") {
				return ctxerr.While(ctx, python.Message)
			}
			return err
		case <-give.C:
			return ctxerr.While(ctx, "torch still waits for the other ranks")
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// makeAnew does Python's part of Renew. On an error the groups are retired again.
func (r *renewal) makeAnew(attempt int64) (err error) {
	r.mu.Lock()
	err = r.err
	r.mu.Unlock()
	if err != nil {
		return err
	}
	var generation any
	r.connections.during(func() { generation, err = r.object().CallValue("make", attempt) })
	if err == nil {
		if err = r.swap("adopt"); err == nil {
			_, err = r.object().CallValue("commit", generation)
		} else {
			_, _ = r.object().CallValue("fail", err.Error())
		}
	}
	if err != nil {
		r.connections.end()
		return cmp.Or(err, r.swap("retire"))
	}
	r.generation.Store(generation.(int64))
	r.mu.Lock()
	r.retired = nil
	r.mu.Unlock()
	return nil
}

// object returns the Renewal of _renewal/groups.py; nil if there is none.
func (r *renewal) object() *Object {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.python
}

// load makes the Renewal of _renewal/groups.py.
func (r *renewal) load() error {
	if r.object() != nil {
		return nil
	}
	collect, err := cbridge.NewFunc("pyhook_collect", collectForgotten)
	if err != nil {
		return err
	}
	defer collect.Close()
	python, err := callModule("pyhook._renewal.groups", "Renewal", collect)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.python = python
	return nil
}

// collectForgotten drops the references of handles that nobody closed and Go no longer reaches: it
// finds them, and drops what an earlier call found.
func collectForgotten([]*Object) (any, error) {
	go func() {
		_ = cbridge.Attached(func() {})
		runtime.GC()
	}()
	return nil, nil
}

// swap calls a method of the Renewal of _renewal/groups.py, which replaces groups in what the slots hold.
func (r *renewal) swap(method string) error {
	if err := r.load(); err != nil {
		return err
	}
	open := r.slots.open()
	objects := make([]any, 0, len(open))
	for _, one := range open {
		o, err := one.get().Clone()
		if err != nil { // closed meanwhile
			if o, err = cbridge.Convert(nil); err != nil {
				return err
			}
		}
		defer o.Close()
		objects = append(objects, o)
	}
	held, err := cbridge.Convert(objects)
	for _, o := range objects {
		o.(*Object).Close()
	}
	if err != nil {
		return err
	}
	defer held.Close()
	replaced, err := r.object().CallValue(method, held)
	if err != nil {
		return err
	}
	for _, index := range replaced.([]any) {
		i, ok := index.(int64)
		if !ok {
			return fmt.Errorf("%s of _renewal/groups.py returned %v", method, replaced)
		}
		o, err := held.Call("__getitem__", i)
		if err != nil {
			return err
		}
		open[i].replace(o)
	}
	return nil
}

var _ c10d.RenewableGroup = (*TorchGroup)(nil)
