package simdevice_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"pyhook/c10d"
	"pyhook/ddp"
	"pyhook/pyhook"
	"pyhook/tensor"
	"pyhook/tensorconv"
	"pyhook/tests/ranks"
	"pyhook/tests/ranks/rankpython"
	"pyhook/tests/simdevice"
	"pyhook/worker"
)

func TestMain(m *testing.M) {
	worker.Main()
	ranks.Main(m, map[string]ranks.Func{"reduce": reduce, "mutate": mutate, "faults": runFaults, "count": count, "workers": workers, "mutate workers": mutateWorkers})
}

// settings are what ranks need to find the device, and where they train.
type settings struct {
	Python  string
	Path    []string
	Backend string
	CPU     bool     // on the CPU by torch's operations, not on the device
	CUDA    bool     // on a GPU
	Workers []string // hooks and their group are in workers, which meet here; nil: in this process
	Taken   []string // what "mutate" takes out, by name
}

// The group's backends: as a trainer with a GPU chooses, or as one with nccl alone.
const (
	both  = "cpu:gloo,sim:simccl"
	alone = "sim:simccl"
)

// run runs a case in processes that others run in, too: those with workers apart.
func run(t *testing.T, name string, with settings, env ...string) *ranks.Job {
	device := simdevice.Get(t)
	with.Python, with.Path, with.Backend = device.Python, device.Path, cmp.Or(with.Backend, both)
	return ranks.Shared(t, ranks.Options{N: 2, Case: name, Args: with, Timeout: 4 * time.Minute, Env: env})
}

// report reports what failed, "" for what did not. After a failure the ranks may be out of step.
func report(rank *ranks.Rank, failed map[string]string) error {
	for _, wrong := range failed {
		if wrong != "" {
			rank.Retire()
		}
	}
	return rank.Report(failed)
}

// passed runs a test for each of the ranks' cases, of which there are so many or more.
func passed(t *testing.T, job *ranks.Job, size, cases int) {
	for rank := range size {
		failed := ranks.Result[map[string]string](t, job, rank)
		assert.GreaterOrEqual(t, len(failed), cases)
		for name, wrong := range failed {
			t.Run(fmt.Sprintf("%s/rank %d", name, rank), func(t *testing.T) { assert.Empty(t, wrong) })
		}
	}
}

// sorted goes through a map in one order on all ranks.
func sorted[V any](m map[string]V) iter.Seq2[string, V] {
	return func(yield func(string, V) bool) {
		for _, name := range slices.Sorted(maps.Keys(m)) {
			if !yield(name, m[name]) {
				return
			}
		}
	}
}

// trainer is a rank with torch and the device.
type trainer struct {
	settings
	rank   int
	rt     *pyhook.Runtime
	world  *pyhook.TorchGroup
	group  c10d.ProcessGroup // world, or the worker's
	worker *worker.Worker    // or nil
	helper *pyhook.Object
	want   map[string][]*pyhook.Object // by scenario and step
}

// joined is the trainer of this process, for all its cases; nil: no case has run.
var joined *trainer

// join returns the trainer, whose device is as new.
func join(ctx context.Context, rank *ranks.Rank) (*trainer, error) {
	var with settings
	if err := rank.Args(&with); err != nil {
		return nil, err
	}
	if joined == nil {
		t, err := startTrainer(ctx, rank.Rank, with)
		if err != nil {
			return nil, err
		}
		joined = t
	}
	t := joined
	if t.world != nil && t.Backend != with.Backend {
		if err := rankpython.Leave(t.rt, t.world); err != nil {
			return nil, err
		}
		t.world = nil
	}
	if t.settings = with; t.world == nil {
		world, err := t.rt.InitProcessGroup(ctx, pyhook.GroupConfig{Backend: t.Backend, InitMethod: rank.Meet})
		if err != nil {
			return nil, err
		}
		t.world, t.group = world, world
	}
	if len(t.Workers) > 0 && t.worker == nil {
		if err := t.startWorker(ctx, t.Workers[0]); err != nil {
			return nil, err
		}
	}
	_, err := t.call("as_new")
	return t, err
}

// startTrainer starts Python.
func startTrainer(ctx context.Context, rank int, with settings) (*trainer, error) {
	t := &trainer{rank: rank, want: map[string][]*pyhook.Object{}}
	var err error
	if t.rt, err = rankpython.Start(ctx, pyhook.Config{Python: with.Python, Path: append(with.Path, "testdata")}); err != nil {
		return nil, err
	}
	if !with.CUDA {
		if _, err := t.rt.Import(ctx, "simdevice"); err != nil {
			return nil, err
		}
	}
	t.helper, err = t.rt.Import(ctx, "reduced")
	return t, err
}

// call calls a function of testdata/reduced.py that returns a plain value.
func (t *trainer) call(name string, args ...any) (any, error) {
	return t.helper.CallValue(name, args...)
}

var (
	sim   = tensor.Device{Type: tensor.Private}
	other = tensor.Device{Type: tensor.Private, ID: 1}
	host  = tensor.Device{Type: tensor.CPU}
	cuda  = tensor.Device{Type: tensor.CUDA}
)

var shapes = [][]int64{{64, 32}, {64}, {40, 25}, {7}, {1}, {33, 3}}

var layout = [][]int{{5, 4, 3}, {2, 1}, {0}}

const steps = 4

// scenario is a way to train.
type scenario struct {
	hook     string // "": none
	peer     string // hook of PyTorch's Reducer; "": the same
	goHook   func(c10d.ProcessGroup) c10d.CommHook
	onDevice bool            // it has a device's streams, or collectives in callbacks, which stock DDP cannot on gloo
	frees    bool            // in PyTorch's Reducer the hook lets go of memory that a callback's stream reads
	power    bool            // the hook's state is PowerSGD's
	means    map[string]any  // the hook's state is hooks.py's Means, of these arguments
	counts   bool            // the hook's state is hooks.py's Counts
	forms    bool            // the hook reads futures as NCCL makes them
	listed   bool            // the state of parameters is given them in a list
	devices  []tensor.Device // of the parameters; nil: all on the device
	dtype    tensor.DType    // of the parameters; Invalid: float32
	dtypes   []tensor.DType  // of the parameters, if they differ
	own      tensor.DType    // of the trainer's own gradients; Invalid: the parameters'
	views    bool            // the trainer writes into the Reducer's gradients, and has none of its own
	host     bool            // Wait, and the gradients are read in no stream's order
	stream   bool            // the trainer has a stream of its own
	streamID bool            // given by its id, where a device's module knows no handles
	infinite bool            // a step fails: the gradients are as they were written
	left     bool            // a step fails, as the trainer leaves it
	unused   bool            // a parameter is marked unused on one rank, each step another one
	micro    int             // so many backward passes a step, all but the last in NoSync; 0: 1
	uneven   bool            // rank 1 joins after two steps
	ends     bool            // the Reducer is closed while the trainer's stream still reads gradients
	later    bool            // what nobody waits for comes later than a Reducer takes to make
	repeat   bool            // each parameter is marked twice, as one that layers share
	options  ddp.Options
}

func (s scenario) deviceOf(i int) tensor.Device {
	if s.devices == nil {
		return sim
	}
	return s.devices[i]
}

// steps are more where a hook begins to compress late.
func (s scenario) steps() int {
	if s.power && s.left {
		return s.failing() + 3
	}
	return steps
}

// fails reports whether a step does.
func (s scenario) fails(step int) bool { return (s.infinite || s.left) && step == s.failing() }

func (s scenario) failing() int {
	if s.power {
		return 3
	}
	return 1
}

func (s scenario) paramType(i int) tensor.DType {
	if s.dtypes != nil {
		return s.dtypes[i]
	}
	return cmp.Or(s.dtype, tensor.Float32)
}

// on is the scenario where this job trains.
func (t *trainer) on(s scenario) scenario {
	switch {
	case t.CPU:
		s.devices, s.options.GroupMemory, s.stream = slices.Repeat([]tensor.Device{host}, len(shapes)), true, false
	case t.CUDA:
		devices := make([]tensor.Device, len(shapes))
		for i := range devices {
			if devices[i] = s.deviceOf(i); devices[i] != host {
				devices[i] = cuda // one card
			}
		}
		s.devices = devices
	}
	return s
}

// source makes a Source of testdata/reduced.py: the gradients of all steps.
func (t *trainer) source(s scenario) (*pyhook.Object, error) {
	infinite, last := -1, -1
	if s.infinite {
		infinite = s.failing()
	}
	if s.uneven {
		last = steps / 2
	}
	var dtypes, own []string
	for i := range shapes {
		dtypes, own = append(dtypes, s.paramType(i).String()), append(own, cmp.Or(s.own, s.paramType(i)).String())
	}
	return t.helper.Call("Source", shapes, dtypes, own, infinite, s.unused, max(s.micro, 1), last)
}

// state is how the hook's state is made; nil: it has none.
func (s scenario) state() *pyhook.StateSpec {
	switch {
	case s.means != nil:
		return &pyhook.StateSpec{Spec: "hooks:Means", Args: s.means}
	case s.counts:
		return &pyhook.StateSpec{Spec: "hooks:Counts"}
	case s.power:
		return &pyhook.StateSpec{Spec: "powersgd", Args: map[string]any{"matrix_approximation_rank": 2, "start_powerSGD_iter": 2, "min_compression_rate": 1, "random_seed": 7}}
	}
	return nil
}

func (t *trainer) newState(ctx context.Context, s scenario) (any, error) {
	spec := s.state()
	if spec == nil {
		return nil, nil
	}
	return t.rt.NewState(ctx, spec.Spec, spec.Args, nil)
}

// wanted returns what PyTorch's Reducer makes of the steps; of one that fails, what the trainer wrote.
func (t *trainer) wanted(ctx context.Context, name string, s scenario, source *pyhook.Object) ([]*pyhook.Object, error) {
	name = fmt.Sprint(name, t.Backend, t.CPU)
	if want := t.want[name]; want != nil {
		return want, nil
	}
	state, err := t.newState(ctx, s)
	if err != nil {
		return nil, err
	}
	var devices []string
	for i := range shapes {
		devices = append(devices, s.deviceOf(i).String())
	}
	peer, err := t.helper.Call("Peer", source, cmp.Or(s.peer, s.hook), state, devices, layout)
	if err != nil {
		return nil, err
	}
	defer peer.Close()
	want := make([]*pyhook.Object, s.steps())
	for step := range want {
		if s.fails(step) {
			want[step], err = source.Call("flat", step)
		} else {
			want[step], err = peer.Call("step", step)
		}
		if err != nil {
			return nil, err
		}
	}
	t.want[name] = want
	return want, nil
}

// hookOf makes the scenario's hook; nil: it has none.
func (t *trainer) hookOf(ctx context.Context, s scenario) (c10d.CommHook, func(), error) {
	if s.goHook != nil {
		return s.goHook(t.group), func() {}, nil
	}
	if s.hook == "" {
		return nil, func() {}, nil
	}
	if t.worker != nil {
		return t.workerHook(ctx, s)
	}
	state, err := t.newState(ctx, s)
	if err != nil {
		return nil, nil, err
	}
	cfg := pyhook.HookConfig{State: state, Group: t.world}
	if s.forms {
		cfg.Futures = pyhook.FutureFormsNCCL
	}
	hook, err := t.rt.NewHook(ctx, s.hook, cfg)
	if err != nil {
		return nil, nil, err
	}
	return hook, hook.Close, nil
}

// training is a Reducer of a scenario and the trainer's own gradients.
type training struct {
	*trainer
	s      scenario
	r      *ddp.Reducer
	own    []*tensor.Tensor // with views, the Reducer's
	source *pyhook.Object
	stream any    // torch's, or nil: the default one
	close  func() // of the Reducer and its hook
}

// begin makes the Reducer of a scenario.
func (t *trainer) begin(ctx context.Context, s scenario) (_ *training, err error) {
	g := &training{trainer: t, s: s}
	if g.source, err = t.source(s); err != nil {
		return nil, err
	}
	options := s.options
	if options.Group = t.group; options.Buckets == nil {
		options.Buckets = layout
	}
	if g.stream, options.Stream, err = t.streamOf(s); err != nil {
		return nil, err
	}
	if g.own, err = t.gradients(s); err != nil { // it may wait for the device, so before the hook's state
		return nil, err
	}
	params := s.parameters()
	if s.later { // else the host waits for the default stream as it makes them
		objects, err := t.rt.Parameters(params...)
		if err != nil {
			return nil, err
		}
		objects.Close()
	}
	hook, closeHook, err := t.hookOf(ctx, s)
	if err != nil {
		return nil, err
	}
	options.Hook = hook
	if g.r, err = ddp.NewReducer(ctx, params, options); err != nil {
		closeHook()
		return nil, err
	}
	g.close = func() {
		g.r.Close()
		closeHook()
	}
	return g, nil
}

// streamOf makes the trainer's stream: torch's, and how Go names it. Without one it is nil.
func (t *trainer) streamOf(s scenario) (any, c10d.Stream, error) {
	if !s.stream {
		return nil, 0, nil
	}
	stream, err := t.helper.Call("new_stream", s.deviceOf(0).String())
	if err != nil {
		return nil, 0, err
	}
	handle, err := t.call("handle", stream, s.streamID)
	if err != nil {
		return nil, 0, err
	}
	return stream, c10d.Stream(handle.(int64)), nil
}

func (s scenario) parameters() []*c10d.Parameter {
	params := make([]*c10d.Parameter, len(shapes))
	for i, shape := range shapes {
		params[i] = &c10d.Parameter{Name: fmt.Sprint("p", i), Shape: shape, DType: s.paramType(i), Device: s.deviceOf(i)}
	}
	return params
}

// gradients are the trainer's own: memory of torch's, given by its address.
func (t *trainer) gradients(s scenario) (own []*tensor.Tensor, err error) {
	for i, shape := range shapes {
		object, err := t.helper.Call("zeros", shape, cmp.Or(s.own, s.paramType(i)).String(), s.deviceOf(i).String())
		if err != nil {
			return nil, err
		}
		g, err := fromTorch(object, shape, s.deviceOf(i))
		object.Close()
		if err != nil {
			return nil, err
		}
		own = append(own, g)
	}
	if !s.stream {
		return own, nil
	}
	_, err = t.call("synchronize") // the trainer's stream is another than the zeros'
	return own, err
}

// fromTorch is a tensor by the address of torch's memory, on the device that it is said to be on.
func fromTorch(object *pyhook.Object, shape []int64, device tensor.Device) (*tensor.Tensor, error) {
	whole, err := tensorconv.FromPython(object)
	if err != nil {
		return nil, err
	}
	return tensor.FromPointer(whole.Data(), whole.DType(), shape, nil, device, whole.Close)
}

// step does a step, also on a rank that has none of its own any more.
func (g *training) step(ctx context.Context, step int) error {
	if g.s.views {
		for i := range g.own {
			g.own[i] = g.r.Gradient(i)
		}
	}
	for part := range max(g.s.micro, 1) - 1 {
		if err := g.r.NoSync(func() error { return g.backward(step, part) }); err != nil {
			return err
		}
	}
	if err := g.backward(step, max(g.s.micro, 1)-1); err != nil {
		return err
	}
	wait := g.r.WaitStream
	if g.s.host {
		wait = g.r.Wait
	}
	_, err := wait(ctx)
	return err
}

// backward writes a part of the gradients, late, and marks them.
func (g *training) backward(step, part int) error {
	if _, err := g.call("produce", g.source, g.own, step, part, g.stream); err != nil {
		return err
	}
	return g.markAll(step)
}

func (g *training) markAll(step int) error {
	unused, err := g.source.CallValue("is_unused", step)
	if err != nil {
		return err
	}
	marks := 1
	if g.s.repeat {
		marks = 2
	}
	for i := len(g.own) - 1; i >= 0; i-- {
		for range marks {
			if err := g.mark(i, int64(i) == unused); err != nil {
				return err
			}
		}
	}
	return nil
}

func (g *training) mark(i int, unused bool) error {
	switch {
	case unused && g.s.views && g.s.options.Unused == ddp.UnusedFind:
		return nil
	case unused && g.s.views:
		return g.r.MarkUnused(i)
	case unused:
		return g.r.MarkUnusedInto(i, g.own[i])
	case g.s.views:
		return g.r.Ready(i)
	}
	return g.r.ReadyFrom(i, g.own[i])
}

// train does some steps beside PyTorch's Reducer. The error says what differs.
func (t *trainer) train(ctx context.Context, name string) error {
	s := t.on(scenarios[name])
	// powerSGD_hook frees memory that another stream still reads: see TestStockDDP.
	if _, err := t.call("reuse", !s.power && !s.frees); err != nil {
		return err
	}
	source, err := t.source(s)
	if err != nil {
		return err
	}
	defer t.later(s)()
	want, err := t.wanted(ctx, name, s, source)
	if err != nil {
		return err
	}
	if s.frees { // here it is right all the same
		if _, err := t.call("reuse", true); err != nil {
			return err
		}
	}
	g, err := t.begin(ctx, s)
	if err != nil {
		return err
	}
	defer g.close()
	var differs error
	for step := range s.steps() { // all of them: what differs need not do so on all ranks
		if s.uneven && t.rank == 1 && step == steps/2 {
			_, err := g.r.Join(ctx)
			return errors.Join(differs, err)
		}
		err := g.stepOrLeave(ctx, step)
		if err != nil {
			if recovered := g.r.Recover(ctx); recovered != nil {
				return errors.Join(err, recovered)
			}
		}
		switch {
		case s.fails(step) && (err == nil || s.infinite && !errors.Is(err, c10d.ErrNonFinite)):
			return errors.Join(fmt.Errorf("step %d: a failure is not seen", step), err)
		case !s.fails(step) && err != nil:
			return fmt.Errorf("step %d: %w", step, err)
		}
		if err := g.compare(step, want[step]); err != nil && differs == nil {
			differs = err
		}
	}
	if s.uneven {
		_, err := g.r.Join(ctx)
		return errors.Join(differs, err)
	}
	return differs
}

// later has streams be later where a scenario says so, until what it returns is called.
func (t *trainer) later(s scenario) func() {
	if !s.later {
		return func() {}
	}
	_, _ = t.call("delay", 20000)
	return func() { _, _ = t.call("delay", 200) }
}

// stepOrLeave writes the gradients also of a step that it leaves.
func (g *training) stepOrLeave(ctx context.Context, step int) error {
	if !g.s.left || !g.s.fails(step) {
		return g.step(ctx, step)
	}
	if _, err := g.call("produce", g.source, g.own, step, 0, g.stream); err != nil {
		return err
	}
	return g.r.Leave(ctx, errors.New("the trainer leaves the step"))
}

// compare compares the gradients after a step.
func (g *training) compare(step int, want *pyhook.Object) error {
	var got any = g.own
	if g.s.ends && step == steps-1 {
		later, err := g.helper.Call("later", g.own)
		if err != nil {
			return err
		}
		defer later.Close()
		got = later
		g.close()
	}
	same, err := g.call("same", got, want, g.s.host, g.stream)
	if err == nil && same != true {
		err = fmt.Errorf("step %d: other bits than PyTorch's", step)
	}
	return err
}
