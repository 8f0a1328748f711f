package worker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"

	"pyhook/c10d"
	"pyhook/cbridge"
	"pyhook/pyhook"
	"pyhook/tensor"
	"pyhook/worker/internal/ipc"
)

// server is the worker process's side: Python, and what the trainer refers to by ids. The trainer
// counts them; a cgo.Handle is valid in one process only.
type server struct {
	wire   *ipc.Conn[message]
	vitals *vitals
	stacks *os.File

	started bool // it was asked to; serve's
	rt      *pyhook.Runtime
	group   *pyhook.TorchGroup

	tracing sync.Mutex // while a hook is made to report its collectives, or closed

	mu      sync.Mutex
	regions map[uint64]*ipc.Region
	params  map[uint64]*c10d.Parameter
	buckets map[uint64]*servedBucket
	hooks   map[uint64]*pyhook.PythonCommHook
	bound   uint64 // the hook that Python's main thread is for: the first; 0: none
	calls   map[uint64]*servedCall

	opening sync.Mutex // of devices: making one waits for Python, which mu must not
	devices map[tensor.Device]c10d.DeviceMemory
}

func newServer(w *ipc.Conn[message], vitals *vitals, stacks *os.File) *server {
	return &server{
		wire: w, vitals: vitals, stacks: stacks,
		regions: map[uint64]*ipc.Region{}, params: map[uint64]*c10d.Parameter{}, buckets: map[uint64]*servedBucket{},
		hooks: map[uint64]*pyhook.PythonCommHook{}, calls: map[uint64]*servedCall{}, devices: map[tensor.Device]c10d.DeviceMemory{},
	}
}

// serve handles messages until the trainer says that it is enough, or is gone. What
// may wait for Python or for other ranks runs on a goroutine of its own; the
// collectives of the group only after they were issued, since their order counts.
func (s *server) serve() error {
	for {
		m, err := s.wire.Receive()
		if err != nil {
			return fmt.Errorf("the trainer is gone: %w", err)
		}
		if err := m.check(); err != nil {
			return err
		}
		if m.Kind == kindStart == s.started && m.Kind != kindStop {
			return fmt.Errorf("a message of kind %d; the start was asked for before: %t", m.Kind, s.started)
		}
		s.started = s.started || m.Kind == kindStart
		switch m.Kind {
		case kindStop:
			return s.stop()
		case kindCollective:
			s.collective(m)
		case kindMap, kindUnmap, kindParameter, kindCloseParameter, kindBucket, kindCloseBucket:
			s.answer(m, nil, s.memory(m))
		default:
			go s.handle(m)
		}
	}
}

// stop ends Python in good order.
func (s *server) stop() error {
	if s.rt == nil {
		return nil
	}
	if bridge, err := s.rt.Import(context.Background(), "pyhook._runtime.bridge"); err == nil {
		_, _ = bridge.CallValue("destroy", true)
		bridge.Close()
	}
	s.vitals.ending.Store(true)
	return s.rt.Close()
}

// answer sends an answer to m, if it asks for one. A trainer that is gone ends this
// process elsewhere.
func (s *server) answer(m, answer *message, err error) {
	if m.ID == 0 {
		return
	}
	if answer == nil {
		answer = &message{}
	}
	answer.Kind, answer.ID, answer.Err = kindAnswer, m.ID, remote(err)
	_ = s.wire.Send(answer, nil)
}

func (s *server) handle(m *message) {
	var answer *message
	var err error
	switch m.Kind {
	case kindStart:
		answer, err = s.start(m.Start)
	case kindHook:
		answer, err = s.newHook(m.Hook)
	case kindCloseHook:
		if hook := remove(s, s.hooks, m.Object); hook != nil {
			s.unbind(m.Object)
			s.tracing.Lock()
			hook.Close()
			s.tracing.Unlock()
		}
	case kindRun:
		var result *outgoing
		s.onThreadOf(m.Run.Hook, func() { result = s.run(m.Run) })
		s.sendResult(kindAnswer, m.ID, result)
		return
	case kindAdvance:
		answer, err = s.advance(m.Object)
	case kindCloseChain:
		s.closeChain(m.Object)
	case kindTrace:
		err = s.trace(m.Trace)
	case kindSave, kindRestore:
		answer, err = s.state(m)
	case kindTryDevice:
		err = s.tryDevice(m.Bucket.Buffer)
	case kindComplex:
		err = s.complexParameters(m.Object)
	default:
		err = fmt.Errorf("a message of kind %d is not known: the trainer is of another version of pyhook", m.Kind)
	}
	s.answer(m, answer, err)
}

// find and remove look up what the trainer refers to by an id; nil: nothing has it.
func find[V any](s *server, table map[uint64]V, id uint64) V {
	s.mu.Lock()
	defer s.mu.Unlock()
	return table[id]
}

func remove[V any](s *server, table map[uint64]V, id uint64) V {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := table[id]
	delete(table, id)
	return v
}

func store[V any](s *server, table map[uint64]V, id uint64, v V) {
	s.mu.Lock()
	defer s.mu.Unlock()
	table[id] = v
}

func (s *server) start(m *startMessage) (*message, error) {
	ctx := context.Background()
	defaultFatalSignals()
	rt, err := pyhook.Start(ctx, pyhook.Config{Python: m.Python, Library: m.Library, Path: m.Path})
	if err != nil {
		return nil, err
	}
	s.rt = rt
	module, err := rt.Import(context.Background(), "pyhook._runtime.stacks")
	if err != nil {
		return nil, err
	}
	defer module.Close()
	started := &startedMessage{Info: rt.Info()}
	cbridge.ReleaseFaults() // to faulthandler
	// faulthandler gives the calling thread a stack for signals, where Go has its own.
	err = onThreadOfItsOwn(func() error {
		_, err := module.CallValue("write_stacks", int(s.stacks.Fd()), stackSignal)
		return err
	})
	started.Thread = startSignalThread()
	if err != nil {
		return nil, err
	}
	if s.group, err = s.join(m); err != nil {
		return nil, err
	}
	started.Rank, started.Size, started.Backend = s.group.Rank(), s.group.Size(), s.group.Backend()
	return &message{Started: started}, nil
}

func (s *server) join(m *startMessage) (*pyhook.TorchGroup, error) {
	method := m.InitMethod
	if m.Size == 1 {
		method = "" // there are no other ranks
	}
	return s.rt.InitProcessGroup(context.Background(), pyhook.GroupConfig{
		Backend: m.Backend, InitMethod: method, Rank: m.Rank, Size: m.Size, Timeout: m.Timeout})
}

func (s *server) newHook(m *hookMessage) (*message, error) {
	if s.rt == nil {
		return nil, fmt.Errorf("hook %s before the start: %w", m.Spec, c10d.ErrLoad)
	}
	cfg := pyhook.HookConfig{State: m.State, Group: s.group, Futures: m.Futures}
	for _, id := range m.Params {
		cfg.Parameters = append(cfg.Parameters, find(s, s.params, id))
	}
	if _, ok := m.State.(groupState); ok {
		cfg.State = s.group
	}
	hook, err := s.rt.NewHook(context.Background(), m.Spec, cfg)
	if err != nil {
		return nil, err
	}
	// The trainer may run it outside chains (ddp.OrderOverlapped).
	if err = hook.CheckCollectives(); err != nil {
		hook.Close()
		return nil, err
	}
	s.mu.Lock()
	s.hooks[m.ID] = hook
	if s.bound == 0 {
		s.bound = m.ID
	}
	s.mu.Unlock()
	independent, err := hook.Independent()
	return &message{Hook: &hookMessage{Name: hook.Name(), Independent: independent, Order: remote(err), HasState: hook.HasState()}}, nil
}

// memory keeps the tables of what the trainer shares.
func (s *server) memory(m *message) error {
	switch m.Kind {
	case kindMap:
		file, err := s.wire.File()
		if err != nil {
			return err
		}
		defer file.Close()
		r, err := ipc.MapRegion(m.Region.ID, file, m.Region.Bytes)
		if err != nil {
			return err
		}
		store(s, s.regions, r.ID, r)
	case kindUnmap:
		remove(s, s.regions, m.Object).Close()
	case kindParameter:
		return s.newParameter(&m.Bucket.Params[0])
	case kindCloseParameter:
		if param := remove(s, s.params, m.Object); param != nil {
			param.Close()
			param.Data.Close()
		}
	case kindBucket:
		return s.newBucket(m.Bucket)
	case kindCloseBucket:
		remove(s, s.buckets, m.Object).close()
	}
	return nil
}

func (s *server) tensor(m *ipc.Location) (*tensor.Tensor, error) {
	if m == nil {
		return nil, nil
	}
	if m.Handle != nil {
		return s.onDevice(m)
	}
	if m.Region == 0 && slices.Contains(m.Shape, 0) {
		return tensor.New(m.DType, m.Shape...)
	}
	r := find(s, s.regions, m.Region)
	if r == nil {
		return nil, errors.New("a tensor in memory that is not shared")
	}
	return r.Tensor(m)
}
