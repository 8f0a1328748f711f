package simdevice_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"

	"pyhook/c10d"
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
