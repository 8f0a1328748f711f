package simdevice_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"syscall"
	"testing"

	"pyhook/c10d"
	"pyhook/ddp"
	"pyhook/internal/freeport"
	"pyhook/internal/testutil"
	"pyhook/pyhook"
	"pyhook/tensor"
	"pyhook/tests/ranks"
	"pyhook/worker"
)

// shares has the device's memory shared with other processes.
const shares = "PYHOOK_SIM_SHARES=1"

// runWorkers is run with hooks in workers.
func runWorkers(t *testing.T, name string) *ranks.Job {
	return run(t, name, settings{Workers: meetings(t)}, shares)
}

// meetings are where the trainers' workers meet, and others of "mutate workers".
func meetings(t *testing.T) (all []string) {
	for range 2 {
		all = append(all, "tcp://127.0.0.1:"+testutil.FreePort(t))
	}
	return all
}

func (t *trainer) startWorker(ctx context.Context, meet string, env ...string) (err error) {
	t.worker, err = worker.Start(ctx, worker.Config{
		Python: t.Python, Path: append(t.Path, "testdata", "autoload"), Backend: t.Backend,
		InitMethod: meet, Rank: t.rank, Size: t.world.Size(), Env: env,
	})
	if err != nil {
		return err
	}
	t.worker.UseRuntime(t.rt)
	t.group = t.worker.Group()
	return nil
}

// workerWithoutDevice starts a worker of one rank whose torch does not have the device.
func (t *trainer) workerWithoutDevice(ctx context.Context) (*worker.Worker, error) {
	port, err := freeport.Find()
	if err != nil {
		return nil, err
	}
	return worker.Start(ctx, worker.Config{Python: t.Python, Size: 1, InitMethod: fmt.Sprint("tcp://127.0.0.1:", port)})
}

// workers does what is a worker's own.
func workers(ctx context.Context, rank *ranks.Rank) error {
	t, err := join(ctx, rank)
	if err != nil {
		return err
	}
	failed := map[string]string{}
	for name, do := range sorted(ofWorkers) {
		failed[name] = ""
		if err := do(ctx, t); err != nil {
			failed[name] = err.Error()
			break // the ranks may be out of step
		}
	}
	return report(rank, failed)
}

func TestWorkers(t *testing.T) {
	t.Parallel() // it waits more than it computes
	passed(t, runWorkers(t, "workers"), 2, len(ofWorkers))
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
		m, err := t.worker.Group().DeviceMemory(ctx, sim, 0)
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
	"an empty bucket": func(ctx context.Context, t *trainer) error {
		hook, closeHook, err := t.workerHook(ctx, scenario{hook: "fp16"})
		if err != nil {
			return err
		}
		defer closeHook()
		params := []*c10d.Parameter{{Name: "p", Shape: []int64{0}, DType: tensor.Float32, Device: sim}}
		r, err := ddp.NewReducer(ctx, params, ddp.Options{Group: t.group, Hook: hook})
		if err != nil {
			return err
		}
		defer r.Close()
		if err := r.Ready(0); err != nil {
			return err
		}
		_, err = r.Wait(ctx)
		return err
	},
	"the group is the trainer's own": func(ctx context.Context, t *trainer) error {
		former := t.group
		t.group = t.world
		defer func() { t.group = former }()
		return t.beside(ctx, scenario{hook: "fp16", peer: "fp16", views: true}, func() error { return nil })
	},
	"no byte by the host": func(ctx context.Context, t *trainer) error {
		g, err := t.begin(ctx, scenario{hook: "hooks:uncounted", counts: true, host: true})
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
	"values on another device than gradients": func(ctx context.Context, t *trainer) error {
		for _, device := range []tensor.Device{host, other} {
			_, params, values, err := t.valued(scenario{})
			if err != nil {
				return err
			}
			defer closeAll(values)
			for _, p := range params {
				p.Device = device
			}
			_, _, err = t.hookOfParameters(ctx, params, scenario{})
			if err := says(err, c10d.ErrDeviceMemory, "p0", "privateuseone:0", device.String()); err != nil {
				return err
			}
		}
		return nil
	},
	"a worker without the device": func(ctx context.Context, t *trainer) error {
		if t.rank > 0 {
			return nil // the ranks have no part in it
		}
		w, err := t.workerWithoutDevice(ctx)
		if err != nil {
			return err
		}
		defer w.Close()
		w.UseRuntime(t.rt)
		_, err = w.Group().DeviceMemory(ctx, sim, 0)
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
		if err := t.is(x, value); err != nil {
			return fmt.Errorf("%s: %w", what, err)
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
	empty, err := m.New(tensor.Float32, 0)
	if err != nil {
		return err
	}
	defer empty.Close()
	return errors.Join(wait(group.AllReduce(ctx, x, c10d.Sum)), is("all_reduce", x, 3), wait(group.AllReduce(ctx, empty, c10d.Sum)))
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
	passed(t, runWorkers(t, "reduce"), 2, len(scenarios))
}

// What cannot be right is said of a hook in a worker, too, and steps after it are right again.
func TestReducer_faultsInWorkers(t *testing.T) {
	t.Parallel() // it waits more than it computes
	passed(t, runWorkers(t, "faults"), 2, len(inWorkers))
}

// inWorkers are the faults that are a worker's, too.
var inWorkers = map[string]bool{
	"a collective of another device's tensor":     true,
	"a hook with a state that raises on one rank": true,
	"a hook whose result is on another device":    true,
	"a hook whose work fails on the device":       true,
	"no memory for the buckets":                   true,
	"an address of another device than it says":   true,
}
