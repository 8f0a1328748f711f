package simdevice_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/ddp"
	"pyhook/internal/freeport"
	"pyhook/pyhook"
	"pyhook/tensor"
	"pyhook/tests/ranks"
	"pyhook/worker"
)

// shares has the device's memory shared with other processes.
const shares = "PYHOOK_SIM_SHARES=1"

// runWorkers is run with hooks in workers.
func runWorkers(t *testing.T, name string, with settings) *ranks.Job {
	port, err := freeport.Find()
	require.NoError(t, err)
	with.Worker = port
	return run(t, name, with, shares)
}

func (t *trainer) startWorker(ctx context.Context) (err error) {
	t.worker, err = worker.Start(ctx, t.workerConfig())
	if err != nil {
		return err
	}
	t.worker.UseRuntime(t.rt)
	t.group = t.worker.Group()
	return nil
}

func (t *trainer) workerConfig() worker.Config {
	return worker.Config{
		Python: t.Python, Path: append(t.Path, "testdata", "autoload"), Backend: t.Backend,
		InitMethod: fmt.Sprintf("tcp://127.0.0.1:%d", t.Worker), Rank: t.rank, Size: t.world.Size(),
	}
}

// workers does what is a worker's own.
func workers(ctx context.Context, rank *ranks.Rank) error {
	t, err := join(ctx, rank)
	if err != nil {
		return err
	}
	defer t.worker.Close()
	failed := map[string]string{}
	for name, do := range sorted(ofWorkers) {
		failed[name] = ""
		if err := do(ctx, t); err != nil {
			failed[name] = err.Error()
			break // the ranks may be out of step
		}
	}
	return rank.Report(failed)
}

func TestWorkers(t *testing.T) {
	t.Parallel() // it waits more than it computes
	job := runWorkers(t, "workers", settings{})
	for rank := range 2 {
		failed := ranks.Result[map[string]string](t, job, rank)
		assert.Len(t, failed, len(ofWorkers))
		for name, wrong := range failed {
			t.Run(fmt.Sprintf("%s/rank %d", name, rank), func(t *testing.T) { assert.Empty(t, wrong) })
		}
	}
}

// ofWorkers return an error if something is not as their names say.
var ofWorkers = map[string]func(context.Context, *trainer) error{
	"a killed worker costs no bit": func(ctx context.Context, t *trainer) error {
		s := scenario{hook: "powersgd", power: true, options: ddp.Options{Rollback: true}}
		return t.killed(ctx, s)
	},
	"a killed worker costs no bit, views": func(ctx context.Context, t *trainer) error {
		return t.killed(ctx, scenario{hook: "fp16", views: true, options: ddp.Options{Rollback: true}})
	},
	"nothing stays in the trainer": func(ctx context.Context, t *trainer) error {
		use := func() error {
			g, err := t.begin(ctx, scenario{hook: "fp16"})
			if err != nil {
				return err
			}
			defer g.close()
			defer closeAll(g.own)
			return g.step(ctx, 0)
		}
		var before [3]int64
		for round := range 4 {
			if err := use(); err != nil {
				return err
			}
			runtime.GC() // what other tests have forgotten goes meanwhile
			bytes, err := t.allocated()
			if err != nil {
				return err
			}
			now := [3]int64{bytes, tensor.LiveTensors(), tensor.LiveMemory()}
			for i := range now {
				if round > 1 && now[i] > before[i] {
					return fmt.Errorf("bytes on the device, tensors and memory: %d, and before %d", now, before)
				}
			}
			before = now
		}
		return nil
	},
	"collectives of tensors on the device": func(ctx context.Context, t *trainer) error {
		m, err := t.worker.Group().DeviceMemory(sim, 0)
		if err != nil {
			return err
		}
		defer m.Close()
		return t.collectives(ctx, m)
	},
	"a hook reads the parameters' values": func(ctx context.Context, t *trainer) error {
		source, params, values, err := t.valued(scenario{})
		if err != nil {
			return err
		}
		hook, closeHook, err := t.hookOf(ctx, scenario{hook: "hooks:of_parameters"})
		if err != nil {
			return err
		}
		defer closeHook()
		r, err := ddp.NewReducer(ctx, params, ddp.Options{Group: t.group, Hook: hook, Buckets: layout})
		if err != nil {
			return err
		}
		defer r.Close()
		own, err := t.gradients(scenario{})
		if err != nil {
			return err
		}
		for step := range 2 {
			if _, err := t.call("produce", source, values, step, 0, nil); err != nil {
				return err
			}
			for i := range own {
				if err := r.ReadyFrom(i, own[i]); err != nil {
					return err
				}
			}
			if _, err := r.WaitStream(ctx); err != nil {
				return err
			}
			want, err := source.Call("flat", step)
			if err != nil {
				return err
			}
			if same, err := t.call("same", own, want); err != nil || same != true {
				return errors.Join(fmt.Errorf("step %d: other values", step), err)
			}
			want.Close()
		}
		return nil
	},
	"no byte by the host": func(ctx context.Context, t *trainer) error {
		g, err := t.begin(ctx, scenario{hook: "hooks:uncounted", host: true})
		if err != nil {
			return err
		}
		defer g.close()
		for step := range 3 {
			if err := g.step(ctx, step); err != nil {
				return err
			}
		}
		counts, err := t.countStep(ctx, scenario{hook: "fp16"}) // the trainer's
		if err == nil && !slices.Equal(counts, []int64{0, 0, 0}) {
			err = fmt.Errorf("bytes from the host, to the host; waits: %d", counts)
		}
		return err
	},
	"a worker without the device": func(ctx context.Context, t *trainer) error {
		w, err := worker.Start(ctx, worker.Config{Python: t.Python, Size: 1, InitMethod: fmt.Sprintf("tcp://127.0.0.1:%d", t.Worker+1+t.rank)})
		if err != nil {
			return err
		}
		defer w.Close()
		w.UseRuntime(t.rt)
		_, err = w.Group().DeviceMemory(sim, 0)
		return says(err, c10d.ErrDeviceMemory, "privateuseone:0", "No module named 'simdevice'")
	},
}

// killed does steps, in one of which a worker is killed after the first bucket's gradients are marked.
func (t *trainer) killed(ctx context.Context, s scenario) error {
	if _, err := t.call("reuse", !s.power); err != nil { // as train does
		return err
	}
	source, err := t.source(s)
	if err != nil {
		return err
	}
	want, err := t.wanted(ctx, fmt.Sprint("killed ", s.hook), s, source)
	if err != nil {
		return err
	}
	g, err := t.begin(ctx, s)
	if err != nil {
		return err
	}
	defer g.close()
	for step := range s.steps() {
		tries := 0
		err := ddp.Retry(ctx, g.r, func() error {
			if tries++; step != 2 || t.rank != 1 || tries > 1 {
				return g.step(ctx, step)
			}
			return g.stepKilled(ctx, step)
		})
		if err != nil {
			return fmt.Errorf("step %d: %w", step, err)
		}
		if step == 2 && tries != 2 {
			return fmt.Errorf("%d tries of step %d", tries, step)
		}
		if err := g.compare(step, want[step]); err != nil {
			return err
		}
	}
	return nil
}

// stepKilled is a step in which the worker is killed once the first bucket's gradients are marked.
func (g *training) stepKilled(ctx context.Context, step int) error {
	if g.s.views {
		for i := range g.own {
			g.own[i] = g.r.Gradient(i)
		}
	}
	if _, err := g.call("produce", g.source, g.own, step, 0, g.stream); err != nil {
		return err
	}
	for _, i := range slices.Concat(layout...) {
		if i == layout[1][0] {
			if err := syscall.Kill(g.worker.Pid(), syscall.SIGKILL); err != nil {
				return err
			}
		}
		if err := g.mark(i, false); err != nil {
			return err
		}
	}
	_, err := g.r.WaitStream(ctx)
	return err
}

func (t *trainer) allocated() (int64, error) {
	bytes, err := t.call("allocated")
	n, _ := bytes.(int64)
	return n, err
}

func closeAll(tensors []*tensor.Tensor) {
	for _, x := range tensors {
		x.Close()
	}
}

// collectives are of memory that m's New made, in the order of m's stream.
func (t *trainer) collectives(ctx context.Context, m c10d.DeviceMemory) (err error) {
	const n = 1000
	var made [4]*tensor.Tensor
	for i := range made {
		if made[i], err = m.New(tensor.Float32, n); err != nil {
			return err
		}
		defer made[i].Close()
	}
	x, group := made[0], m.Group()
	if _, err := t.worker.Group().AllReduce(ctx, x, c10d.Sum); !errors.Is(err, errors.ErrUnsupported) {
		return fmt.Errorf("a tensor on a device, in no stream's order: %w", err)
	}
	// The trainer's stream fills it late, with 1 on rank 0 and 2 on rank 1.
	if _, err := t.call("fill", x, 1+t.rank); err != nil {
		return err
	}
	if err := m.Fill(nil, nil, nil, 1); err != nil {
		return err
	}
	is := func(what string, x *tensor.Tensor, value int) error {
		if err := m.End(); err != nil {
			return err
		}
		if is, err := t.call("is_", x, value); err != nil || is != true {
			return fmt.Errorf("%s: %w: is %d: %v", what, err, value, is)
		}
		return nil
	}
	wait := func(f *c10d.Future[*tensor.Tensor], err error) error {
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = f.Wait(ctx)
		return err
	}
	if err := errors.Join(wait(group.AllGather(ctx, made[2:], x)), is("all_gather", made[2], 1), is("all_gather", made[3], 2)); err != nil {
		return err
	}
	if err := errors.Join(wait(group.Broadcast(ctx, made[3], 0)), is("broadcast", made[3], 2)); err != nil {
		return err
	}
	return errors.Join(wait(group.AllReduce(ctx, x, c10d.Sum)), is("all_reduce", x, 3))
}

// TestReducer_mutationsInWorkers takes the waits out that order a trainer and its worker, one at a time.
// With each of them something is wrong, every time:
//
//	what is taken out                     where        who notices
//	the host does not wait                the trainer  allreduce, and collectives: the worker reads too early
//	the host does not wait                the worker   a plain result, and collectives: the trainer does
//	fill does not wait for the trainer    the worker   a state begun on the device
//	a call that failed is not waited for  the worker   what is written after the call
func TestReducer_mutationsInWorkers(t *testing.T) {
	t.Parallel() // it waits more than it computes
	job := runWorkers(t, "mutate workers", settings{})
	wrong := ranks.Result[map[string]string](t, job, 0)
	for name, there := range ranks.Result[map[string]string](t, job, 1) {
		wrong[name] += there
	}
	assert.Len(t, wrong, 6)
	for name, wrong := range wrong {
		assert.NotEmpty(t, wrong, name)
		assert.NotContains(t, wrong, "sharing memory", name) // it is not for what NewReducer tries
	}
}

const unwaited = "the host does not wait"

func mutateWorkers(ctx context.Context, rank *ranks.Rank) error {
	t, err := join(ctx, rank)
	if err != nil {
		return err
	}
	defer func() { t.worker.Close() }()
	nothing := func() error { return nil }
	list := []struct {
		name, hook string
		s          scenario
	}{
		{unwaited, "doubled", scenario{host: true}},
		{"fill does not wait for the trainer", "averaged", scenario{means: began}},
		{"a call that failed is not waited for", "raises", scenario{}},
	}
	for i := range list { // first as it is
		taken := &list[i]
		taken.s.hook, taken.s.peer = "hooks:"+taken.hook, "hooks:"+taken.hook
		if err := t.beside(ctx, taken.s, nothing); err != nil {
			return fmt.Errorf("%s, with nothing taken out: %w", taken.name, err)
		}
	}
	found := map[string]string{}
	if err := t.mutateHere(ctx, found); err != nil {
		return err
	}
	for _, taken := range list {
		t.worker.Close()
		cfg := t.workerConfig()
		cfg.Env = []string{"PYHOOK_SIM_TAKEN=" + taken.name, "PYHOOK_SIM_DELAY_MS=2000"}
		if t.worker, err = worker.Start(ctx, cfg); err != nil {
			return err
		}
		t.worker.UseRuntime(t.rt)
		t.group = t.worker.Group()
		taken.s.hook = "taken:" + taken.hook
		_, closeHook, err := t.workerHook(ctx, taken.s) // takes it out
		if err != nil {
			return err
		}
		m, err := t.worker.Group().DeviceMemory(sim, 0)
		if err != nil {
			return err
		}
		found[taken.name+", there"] = text(t.beside(ctx, taken.s, nothing))
		if taken.name == unwaited {
			found[taken.name+" for collectives, there"] = text(t.collectives(ctx, m))
		}
		m.Close()
		closeHook()
	}
	return rank.Report(found)
}

// mutateHere has the trainer not wait.
func (t *trainer) mutateHere(ctx context.Context, found map[string]string) error {
	helper, err := t.rt.Import(ctx, "mutations")
	if err != nil {
		return err
	}
	defer helper.Close()
	undo, err := helper.Call("mutate", unwaited)
	if err != nil {
		return err
	}
	m, err := t.worker.Group().DeviceMemory(sim, 0)
	if err != nil {
		return err
	}
	defer m.Close()
	if _, err := t.call("delay", 2000); err != nil {
		return err
	}
	begin := func() error {
		_, err := helper.CallValue("begin")
		return err
	}
	found[unwaited] = text(t.beside(ctx, scenario{hook: "allreduce", peer: "allreduce"}, begin))
	found[unwaited+" for collectives"] = text(t.collectives(ctx, m))
	_, err = helper.CallValue("undo", undo)
	_, failed := t.call("delay", 200)
	return errors.Join(err, failed)
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// beside does steps beside PyTorch's Reducer with the peer's hook; begun is called before the first. Of
// one that raises it looks at what it has written.
func (t *trainer) beside(ctx context.Context, s scenario, begun func() error) error {
	if s.peer == "hooks:raises" {
		return t.failing(ctx, s)
	}
	source, err := t.source(s)
	if err != nil {
		return err
	}
	want, err := t.wanted(ctx, "beside "+s.peer, s, source)
	if err != nil {
		return err
	}
	g, err := t.begin(ctx, s)
	if err != nil {
		return err
	}
	defer g.close()
	if err := begun(); err != nil {
		return err
	}
	var differs error
	for step := range s.steps() {
		if err := g.step(ctx, step); err != nil {
			return err
		}
		differs = errors.Join(differs, g.compare(step, want[step]))
	}
	return differs
}

// failing calls a hook that writes to its bucket and raises, and then writes there itself.
func (t *trainer) failing(ctx context.Context, s scenario) error {
	m, err := t.worker.Group().DeviceMemory(sim, 0)
	if err != nil {
		return err
	}
	defer m.Close()
	x, err := m.New(tensor.Float32, 1000)
	if err != nil {
		return err
	}
	defer x.Close()
	hook, closeHook, err := t.workerHook(ctx, s)
	if err != nil {
		return err
	}
	defer closeHook()
	b, err := c10d.NewGradBucket(c10d.BucketConfig{Count: 1, Buffer: x, Offsets: []int64{0}, Lengths: []int64{1000}, Sizes: [][]int64{{1000}}, Memory: m})
	if err != nil {
		return err
	}
	defer b.Close()
	if _, err := hook.RunHook(ctx, b); !errors.Is(err, c10d.ErrRaised) {
		return fmt.Errorf("%w is not ErrRaised", err)
	}
	if err := m.Divide(x, -1); err != nil { // what raises has written 5
		return err
	}
	if err := m.Synchronize(ctx); err != nil {
		return err
	}
	if is, err := t.call("is_", x, -5); err != nil || is != true {
		return fmt.Errorf("is -5: %v, %w", is, err)
	}
	return nil
}

// workerHook makes the scenario's hook in the worker.
func (t *trainer) workerHook(ctx context.Context, s scenario) (c10d.CommHook, func(), error) {
	cfg := worker.HookConfig{}
	if state := s.state(); state != nil {
		cfg.State = state
	}
	if s.forms {
		cfg.Futures = pyhook.FutureFormsNCCL
	}
	hook, err := t.worker.NewHook(ctx, s.hook, cfg)
	if err != nil {
		return nil, nil, err
	}
	return hook, hook.Close, nil
}

// In workers, which share the device's memory, hooks give the same bits, in every way to train.
func TestReducer_workers(t *testing.T) {
	t.Parallel() // it waits more than it computes
	parity(t, runWorkers(t, "reduce", settings{}), 2)
}

// What cannot be right is said of a hook in a worker, too, and steps after it are right again.
func TestReducer_faultsInWorkers(t *testing.T) {
	t.Parallel() // it waits more than it computes
	job := runWorkers(t, "faults", settings{})
	for rank := range 2 {
		failed := ranks.Result[map[string]string](t, job, rank)
		assert.Len(t, failed, len(inWorkers))
		for name, wrong := range failed {
			t.Run(fmt.Sprintf("%s/rank %d", name, rank), func(t *testing.T) { assert.Empty(t, wrong) })
		}
	}
}

// inWorkers are the faults that are a worker's, too.
var inWorkers = map[string]bool{
	"a hook with a state that raises on one rank": true,
	"a hook whose result is on another device":    true,
	"a hook whose work fails on the device":       true,
	"no memory for the buckets":                   true,
	"an address of another device than it says":   true,
}
