package simdevice_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"

	"pyhook/c10d"
	"pyhook/pyhook"
	"pyhook/tensor"
	"pyhook/tests/ranks"
	"pyhook/worker"
)

// TestReducer_mutationsInWorkers takes the waits out that order a trainer and its worker, one at a time.
// With each of them something is wrong, every time:
//
//	what is taken out                     where        who notices
//	the host does not wait                the trainer  allreduce, and collectives: the worker reads too early
//	the host does not wait                the worker   a plain result, and collectives: the trainer does
//	fill does not wait for the trainer    the worker   what another hook's state has the default stream write
//	a call that failed is not waited for  the worker   what is written after the call
func TestReducer_mutationsInWorkers(t *testing.T) {
	t.Parallel() // it waits more than it computes
	job := runWorkers(t, "mutate workers")
	wrong := ranks.Result[map[string]string](t, job, 0)
	for name, there := range ranks.Result[map[string]string](t, job, 1) {
		wrong[name] += there
	}
	assert.Len(t, wrong, 6)
	for name, wrong := range wrong {
		noticed(t, name, wrong)
		assert.NotContains(t, wrong, "sharing memory", name) // it is not for what NewReducer tries
	}
}

const unwaited = "the host does not wait"

func mutateWorkers(ctx context.Context, rank *ranks.Rank) error {
	t, err := join(ctx, rank)
	if err != nil {
		return err
	}
	nothing := func() error { return nil }
	list := []struct {
		name, hook string
		s          scenario
	}{
		{unwaited, "doubled", scenario{host: true}},
		{"fill does not wait for the trainer", "is_written", scenario{}},
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
	there := *t
	if err := there.startWorker(ctx, t.Workers[1], "PYHOOK_SIM_DELAY_MS=2000"); err != nil {
		return err
	}
	defer there.worker.Close()
	for _, taken := range list {
		without := pyhook.StateSpec{Spec: "taken:Without", Args: map[string]any{"name": taken.name}}
		hook, err := there.worker.NewHook(ctx, "noop", worker.HookConfig{State: without})
		if err != nil {
			return err
		}
		hook.Close()
		m, err := there.worker.Group().DeviceMemory(ctx, sim, 0)
		if err != nil {
			return err
		}
		taken.s.hook = "taken:" + taken.hook
		found[taken.name+", there"] = text(there.beside(ctx, taken.s, nothing))
		if taken.name == unwaited {
			found[taken.name+" for collectives, there"] = text(there.collectives(ctx, m))
		}
		m.Close()
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
	m, err := t.worker.Group().DeviceMemory(ctx, sim, 0)
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

// beside does steps beside PyTorch's Reducer with the peer's hook; begun is called before the first. Two
// hooks it calls without a Reducer.
func (t *trainer) beside(ctx context.Context, s scenario, begun func() error) error {
	switch s.peer {
	case "hooks:raises":
		return t.failing(ctx, s)
	case "hooks:is_written":
		return t.written(ctx, s)
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

// called is a bucket on the device and a hook in the worker.
type called struct {
	m    c10d.DeviceMemory
	hook c10d.CommHook
	b    *c10d.GradBucket
}

// withBucket calls f with the scenario's hook.
func (t *trainer) withBucket(ctx context.Context, s scenario, f func(called) error) error {
	m, err := t.worker.Group().DeviceMemory(ctx, sim, 0)
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
	return f(called{m, hook, b})
}

// failing calls a hook that writes to its bucket and raises, and then writes there itself.
func (t *trainer) failing(ctx context.Context, s scenario) error {
	return t.withBucket(ctx, s, func(c called) error {
		if _, err := c.hook.RunHook(ctx, c.b); !errors.Is(err, c10d.ErrRaised) {
			return fmt.Errorf("%w is not ErrRaised", err)
		}
		if err := c.m.Divide(c.b.Buffer(), -1); err != nil { // what raises has written 5
			return err
		}
		if err := c.m.Synchronize(ctx); err != nil {
			return err
		}
		return t.is(c.b.Buffer(), -5)
	})
}

// written calls a hook whose result a stream of the worker's has just begun to write.
func (t *trainer) written(ctx context.Context, s scenario) error {
	const value = 7
	call := func(c called) error {
		future, err := c.hook.RunHook(ctx, c.b)
		if err != nil {
			return err
		}
		defer future.Close()
		_, err = future.Wait(ctx)
		return err
	}
	return t.withBucket(ctx, s, func(c called) error {
		if err := call(c); err != nil { // a bucket's first call makes what the worker keeps of it
			return err
		}
		state := pyhook.StateSpec{Spec: "hooks:Written", Args: map[string]any{"value": value}}
		other, err := t.worker.NewHook(ctx, "noop", worker.HookConfig{State: state})
		if err != nil {
			return err
		}
		defer other.Close()
		if err := call(c); err != nil {
			return err
		}
		return t.is(c.b.Buffer(), value)
	})
}

// is says whether all elements are that, after what the trainer's stream has.
func (t *trainer) is(x *tensor.Tensor, value int) error {
	is, err := t.call("is_", x, value)
	if err == nil && is != true {
		err = fmt.Errorf("not %d", value)
	}
	return err
}
