package hookbench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"time"
	"unsafe"

	"pyhook/cbridge"
	"pyhook/launch"
	"pyhook/pyhook"
	"pyhook/tensor"
	"pyhook/tensorconv"
)

// A side runs as many calls of the hook as ns has room for, and stores the
// nanoseconds of each: from the end of the call before to its own.
type side interface {
	run(ns []int64) error
}

// measure is what each rank does.
func measure(ctx context.Context, j *job) (err error) {
	if err := launch.DieWithParent(); err != nil {
		return err
	}
	rt, err := pyhook.Start(ctx, pyhook.Config{Python: j.Python, Path: j.Path})
	if err != nil {
		return err
	}
	defer rt.Close()
	backend := "gloo"
	if len(j.Cases) > 0 && j.Cases[0].GPU {
		backend = "nccl"
	}
	group, err := rt.InitProcessGroup(ctx, pyhook.GroupConfig{Backend: backend})
	if err != nil {
		return err
	}
	if j.Workers {
		return measureWorkers(ctx, rt, group, j)
	}
	var other *separate
	if j.Cpp && slices.ContainsFunc(j.Cases, Case.separate) {
		if other, err = startSeparate(j, group); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, other.close()) }()
	}
	var rows []Row
	for i, c := range j.Cases {
		if group.Rank() == 0 {
			fmt.Fprintf(os.Stderr, "%-24s %s\n", c.Name(), time.Now().Format(time.TimeOnly))
		}
		var r Row
		closed := rt.RunOnMain(ctx, func() { r, err = measureCase(ctx, rt, j, c, separateSide{other, i}) })
		if err := errors.Join(closed, err); err != nil {
			return fmt.Errorf("%s: %w", c.Name(), err)
		}
		rows = append(rows, r)
	}
	return j.write(group, rows)
}

func measureCase(ctx context.Context, rt *pyhook.Runtime, j *job, c Case, other separateSide) (Row, error) {
	runtime.GC() // the buffer of the case before
	b, err := newBench(ctx, rt, j, c)
	if err != nil {
		return Row{}, err
	}
	defer b.close()
	blocks, calls := c.blocks(j.Scale)
	sides := []side{b.goSide, b.floor}
	if j.Cpp {
		sides = append(sides, b.cpp)
		if c.separate() {
			sides = append(sides, other)
		}
		if c.noop() && c.alone() { // else the bucket's making is lost in what the hook does
			sides = append(sides, b.newBucket)
		}
	}
	if c.Busy {
		stop, err := b.busy()
		if err != nil {
			return Row{}, err
		}
		defer stop()
	}
	samples, err := interleave(sides, blocks, calls)
	if err != nil {
		return Row{}, err
	}
	r := newRow(c, samples[0], samples[1], calls)
	if len(samples) > 2 {
		r.addCpp(samples[0], samples[2], calls)
	}
	if len(samples) > 3 && c.separate() {
		r.addSeparate(samples[0], samples[3], calls)
	} else if len(samples) > 3 {
		r.CppNewBucketUS = micro(samples[3], 0.5)
	}
	r.describe(rt)
	return r, b.goSide.account(&r)
}

// interleave lets the sides take turns, so that a machine that changes its
// speed changes it for all, and in alternating order, so that none always
// follows the same other. A few calls of each come before.
func interleave(sides []side, blocks, calls int) ([][]int64, error) {
	samples := make([][]int64, len(sides))
	order := make([]int, len(sides))
	for i, s := range sides {
		order[i] = i
		samples[i] = make([]int64, blocks*calls)
		// PowerSGD begins to compress at its third call.
		if err := s.run(make([]int64, max(3, calls))); err != nil {
			return nil, err
		}
	}
	for block := range blocks {
		for _, i := range order {
			if err := sides[i].run(samples[i][block*calls : (block+1)*calls]); err != nil {
				return nil, err
			}
		}
		slices.Reverse(order)
	}
	return samples, nil
}

// bench is one case's sides, all on the same hook and the same memory.
type bench struct {
	c      Case
	rt     *pyhook.Runtime
	buffer *tensor.Tensor
	hook   *pyhook.Object
	loops  *pyhook.Object
	bucket *pyhook.Object // PyTorch's own
	goSide *goSide
	// cppThere: the C++ peer is built.
	cppThere bool
	cpp      *pySide
	floor    *pySide
	// newBucket is cpp with a new GradBucket a call, as the reducer makes it.
	newBucket *pySide

	closers []func()
}

func (b *bench) close() {
	if b == nil {
		return
	}
	for _, f := range slices.Backward(b.closers) {
		f()
	}
}

// keep closes an object with the bench.
func (b *bench) keep(o *pyhook.Object, err error) (*pyhook.Object, error) {
	if err == nil {
		b.closers = append(b.closers, o.Close)
	}
	return o, err
}

func newBench(ctx context.Context, rt *pyhook.Runtime, j *job, c Case) (*bench, error) {
	b := &bench{c: c, rt: rt, cppThere: j.Cpp}
	if err := b.open(ctx, rt); err != nil {
		b.close()
		return nil, err
	}
	return b, nil
}

func (b *bench) open(ctx context.Context, rt *pyhook.Runtime) (err error) {
	if b.loops, err = b.keep(rt.Import(ctx, "loops")); err != nil {
		return err
	}
	if err := b.fill(); err != nil {
		return err
	}
	if b.hook, err = b.keep(rt.LoadHook(ctx, b.c.Spec.Hook)); err != nil {
		return err
	}
	if b.c.Spec.NCCLFutures { // for all sides alike
		forms, err := b.keep(rt.Import(ctx, "pyhook._runtime.nccl_futures"))
		if err != nil {
			return err
		}
		if b.hook, err = b.keep(forms.Call("NCCLForms", b.hook)); err != nil {
			return err
		}
	}
	if b.goSide, err = b.newGoSide(ctx, rt); err != nil {
		return err
	}
	return b.openPeers(rt)
}

// fill makes the buffer.
func (b *bench) fill() (err error) {
	if b.buffer, err = tensor.New(tensor.Float32, b.c.Bytes/4); err != nil {
		return err
	}
	b.closers = append(b.closers, b.buffer.Close)
	values, err := tensor.Slice[float32](b.buffer)
	if err != nil {
		return err
	}
	for i := range values {
		values[i] = float32(i%1000)*1e-3 - 0.5
	}
	if !b.c.GPU {
		return nil
	}
	there, err := b.keep(b.loops.Call("on_gpu", b.buffer))
	if err != nil {
		return err
	}
	if b.buffer, err = tensorconv.FromPython(there); err != nil {
		return err
	}
	b.closers = append(b.closers, b.buffer.Close)
	return nil
}

func (b *bench) openPeers(rt *pyhook.Runtime) error {
	sizes := make([][]int64, b.c.Params)
	for i := range sizes {
		sizes[i] = b.c.shape()
	}
	if b.cppThere {
		if err := b.openCpp(rt, sizes); err != nil {
			return err
		}
	}
	bucket := b.bucket
	if bucket == nil { // no C++ to make a real one
		var err error
		if bucket, err = b.keep(b.loops.Call("testing_bucket", b.buffer, sizes)); err != nil {
			return err
		}
	}
	var parameters *pyhook.Object
	if b.c.Spec.State != "" {
		var err error
		if parameters, err = b.keep(bucket.Call("parameters")); err != nil {
			return err
		}
	}
	state, err := b.newState(parameters)
	if err != nil {
		return err
	}
	floor, err := b.keep(b.loops.Call("Floor", b.hook, state, bucket))
	if err != nil {
		return err
	}
	b.floor, err = b.newPySide(floor, "run")
	return err
}

func (b *bench) openCpp(rt *pyhook.Runtime, sizes [][]int64) error {
	module, err := b.keep(rt.Import(context.Background(), "python_comm_hook_peer"))
	if err != nil {
		return err
	}
	parameters, err := b.keep(b.loops.Call("parameters", sizes))
	if err != nil {
		return err
	}
	state, err := b.newState(parameters)
	if err != nil {
		return err
	}
	peer, err := b.keep(module.Call("Peer", b.hook, state, b.buffer, sizes, parameters))
	if err != nil {
		return err
	}
	if b.bucket, err = b.keep(peer.Call("bucket")); err != nil {
		return err
	}
	method := "run"
	switch {
	case b.c.Busy:
		method = "run_paused"
	case b.c.Callers > 1:
		method = "run_callers"
	}
	if b.cpp, err = b.newPySide(peer, method); err != nil {
		return err
	}
	b.cpp.callers = b.c.Callers
	b.newBucket, err = b.newPySide(peer, "run_new_bucket")
	return err
}

// busy starts a Python thread that computes until stop is called.
func (b *bench) busy() (stop func(), err error) {
	thread, err := b.loops.Call("Busy")
	if err != nil {
		return nil, err
	}
	return func() {
		none, err := thread.Call("stop")
		if err == nil {
			none.Close()
		}
		thread.Close()
	}, nil
}

// newState makes a state of its own for each side: None where the hook has none.
// parameters are those of the side's bucket; nil: not known.
func (b *bench) newState(parameters *pyhook.Object) (*pyhook.Object, error) {
	if b.c.Spec.State == "" {
		return b.keep(cbridge.Convert(nil))
	}
	args, err := b.c.Spec.Args()
	if err != nil {
		return nil, err
	}
	module, err := b.keep(b.rt.Import(context.Background(), "pyhook"))
	if err != nil {
		return nil, err
	}
	var known any
	if parameters != nil {
		known = parameters
	}
	return b.keep(module.Call("build_state", b.c.Spec.State, args, nil, known))
}

// pySide is a side in Python or C++: a method of n and an address, and of how
// many threads are to call at once where that is more than one.
type pySide struct {
	method  *pyhook.Object
	callers int
}

func (b *bench) newPySide(o *pyhook.Object, name string) (*pySide, error) {
	method, err := b.keep(o.Attr(name))
	return &pySide{method: method}, err
}

func (p *pySide) run(ns []int64) error {
	var pinner runtime.Pinner
	defer pinner.Unpin()
	pinner.Pin(&ns[0])
	args := []any{len(ns), uintptr(unsafe.Pointer(&ns[0]))}
	if p.callers > 1 {
		args = append(args, p.callers)
	}
	none, err := p.method.Invoke(args, nil)
	if err == nil {
		none.Close()
	}
	return err
}
