package simdevice_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"

	"pyhook/c10d"
	"pyhook/c10d/hooks"
	"pyhook/ddp"
	"pyhook/pyhook"
	"pyhook/tensor"
	"pyhook/tests/ranks"
	"pyhook/worker"
)

var checked = ddp.Options{Rollback: true, CheckFinite: true}

var scenarios = map[string]scenario{
	"no hook":                             {},
	"no hook, views":                      {views: true},
	"no hook, bfloat16":                   {dtype: tensor.BFloat16},
	"no hook, several dtypes":             {dtypes: dtypes},
	"allreduce, several dtypes":           {hook: "allreduce", dtypes: dtypes, options: checked},
	"fp16, a timeline":                    {hook: "fp16", options: ddp.Options{Timeline: ddp.NewTimeline(0)}},
	"quantize_perchannel":                 {onDevice: true, hook: "quantize_perchannel", frees: true},
	"no hook, mixed devices":              {devices: mixed},
	"allreduce":                           {hook: "allreduce"},
	"allreduce, Wait":                     {hook: "allreduce", host: true},
	"allreduce, views":                    {hook: "allreduce", views: true, host: true},
	"allreduce, overlapped":               {hook: "allreduce", options: ddp.Options{Order: ddp.OrderOverlapped}},
	"allreduce, own stream":               {hook: "allreduce", stream: true},
	"allreduce, stream by id":             {hook: "allreduce", stream: true, streamID: true},
	"allreduce, mixed devices":            {hook: "allreduce", devices: mixed, options: checked},
	"allreduce, float32 masters":          {hook: "allreduce", own: tensor.BFloat16},
	"allreduce, unused":                   {hook: "allreduce", unused: true},
	"allreduce, unused found":             {hook: "allreduce", unused: true, views: true, options: ddp.Options{Unused: ddp.UnusedFind}},
	"allreduce, unused found, own memory": {hook: "allreduce", unused: true, options: ddp.Options{Unused: ddp.UnusedFind}},
	"allreduce, NoSync":                   {hook: "allreduce", micro: 3},
	"allreduce, NoSync, views":            {hook: "allreduce", micro: 2, views: true},
	"allreduce, Join":                     {hook: "allreduce", uneven: true, options: ddp.Options{Join: true}},
	"allreduce, static graph":             {hook: "allreduce", repeat: true, options: ddp.Options{StaticGraph: true}},
	"allreduce, rebuilt":                  {hook: "allreduce", options: ddp.Options{Layout: ddp.LayoutRebuilt}},
	"allreduce, closed early":             {hook: "allreduce", views: true, ends: true},
	"a plain result":                      {hook: "hooks:doubled"},
	"allreduce in Go":                     {peer: "allreduce", goHook: allReduce},
	"fp16 in Go":                          {peer: "fp16", goHook: fp16},
	"fp16 in Go, mixed devices":           {peer: "fp16", goHook: fp16, devices: mixed},
	"fp16":                                {hook: "fp16"},
	"fp16, ordered":                       {hook: "fp16", options: ddp.Options{Order: ddp.OrderOrdered}},
	"bf16, serial":                        {hook: "bf16", options: ddp.Options{Order: ddp.OrderSerial}},
	"bf16, mixed devices":                 {hook: "bf16", devices: mixed},
	"powersgd":                            {hook: "powersgd", power: true},
	"fp16_wrapper(powersgd)":              {hook: "fp16_wrapper(powersgd)", power: true},
	"powersgd, a step left":               {hook: "powersgd", power: true, left: true, options: ddp.Options{Rollback: true}},
	"noop, rolled back":                   {hook: "noop", options: checked},
	"an infinity":                         {hook: "allreduce", infinite: true, options: checked},
	"an infinity, views":                  {hook: "fp16", infinite: true, views: true, options: checked},
	"an infinity, Wait":                   {infinite: true, host: true, options: checked},
	"late writes looked for":              {hook: "allreduce", options: ddp.Options{LateWrites: true}},
	"callbacks":                           {hook: "hooks:tripled"},
	"callbacks, overlapped":               {hook: "hooks:tripled", options: ddp.Options{Order: ddp.OrderOverlapped}},
	"two levels of callbacks":             {onDevice: true, hook: "hooks:twice"},
	"two levels, ordered":                 {onDevice: true, hook: "hooks:twice", options: ddp.Options{Order: ddp.OrderOrdered}},
	"two levels, rolled back":             {onDevice: true, hook: "hooks:twice", options: checked},
	"doubled elsewhere":                   {hook: "hooks:doubled_elsewhere"},
	"completed by a thread":               {onDevice: true, hook: "hooks:by_a_thread"},
	"waits elsewhere":                     {onDevice: true, hook: "hooks:waits_elsewhere", peer: "hooks:tripled"},
	"synchronizes":                        {onDevice: true, hook: "hooks:synchronizes"},
	"halves in the bucket's memory":       {hook: "hooks:half_in_place"},
	"a result with strides":               {hook: "hooks:strided", peer: "hooks:tripled"},
	"NCCL's futures":                      {hook: "hooks:mean", peer: "hooks:mean_of_list", forms: true},
	"NCCL's futures, overlapped":          {hook: "hooks:mean", peer: "hooks:mean_of_list", forms: true, options: ddp.Options{Order: ddp.OrderOverlapped}},
	"a dropped work":                      {hook: "hooks:drops", peer: "allreduce"},
	"a dropped work, overlapped":          {hook: "hooks:drops", peer: "allreduce", options: ddp.Options{Order: ddp.OrderOverlapped}},
	"a state begun on the device":         {onDevice: true, hook: "hooks:averaged", means: began},
	"a state begun on another stream":     {onDevice: true, hook: "hooks:averaged", means: began, stream: true, later: true},
	"a state put back":                    {onDevice: true, hook: "hooks:averaged", means: map[string]any{}, left: true, options: ddp.Options{Rollback: true}},
	"a state that shows copies":           {onDevice: true, hook: "hooks:averaged", means: map[string]any{"copies": true}, left: true, options: ddp.Options{Rollback: true}},
	"a state put back in place":           {onDevice: true, hook: "hooks:averaged_in_place", means: began, infinite: true, stream: true, options: checked},
}

// dtypes are one for each bucket.
var dtypes = []tensor.DType{tensor.Float64, tensor.BFloat16, tensor.BFloat16, tensor.Float32, tensor.Float32, tensor.Float32}

// began are means of which a hook's state has tensors before the first step.
var began = map[string]any{"lengths": []int64{107, 1064, 2048}, "in_place": true}

// mixed are an embedding on the CPU and layers on two devices.
var mixed = []tensor.Device{other, host, host, sim, sim, sim}

func allReduce(g c10d.ProcessGroup) c10d.CommHook { return &hooks.AllReduceCommHook{Group: g} }
func fp16(g c10d.ProcessGroup) c10d.CommHook      { return &hooks.FP16CompressCommHook{Group: g} }

func reduce(ctx context.Context, rank *ranks.Rank) error {
	t, err := join(ctx, rank)
	if err != nil {
		return err
	}
	failed := map[string]string{}
	for name := range sorted(scenarios) {
		if !t.has(name) {
			continue
		}
		failed[name] = ""
		if err := t.train(ctx, name); err != nil {
			failed[name] = err.Error()
		}
	}
	for name, other := range sorted(map[string]func(context.Context) error{"values": t.values, "values of a stream": t.valuesOfStream, "a state of parameters": t.stateOfValues, "digests": t.digests, "a bucket without a Reducer": t.bare, "a recording's copies": t.recorded, "gradients that the trainer lets go of": t.letGo, "parameters without values": t.valueless}) {
		failed[name] = ""
		if err := other(ctx); err != nil {
			failed[name] = err.Error()
		}
	}
	return report(rank, failed)
}

// valued makes parameters that have values.
func (t *trainer) valued(s scenario) (*pyhook.Object, []*c10d.Parameter, []*tensor.Tensor, error) {
	source, err := t.source(s)
	if err != nil {
		return nil, nil, nil, err
	}
	values, err := t.gradients(s)
	params := s.parameters()
	for i := range values {
		params[i].Data = values[i]
	}
	return source, params, values, err
}

// late makes parameters whose values the trainer's stream writes late, each rank its own.
func (t *trainer) late(s scenario) (source *pyhook.Object, params []*c10d.Parameter, values []*tensor.Tensor, err error) {
	s = t.on(s)
	if source, params, values, err = t.valued(s); err != nil {
		return nil, nil, nil, err
	}
	var stream any
	if s.stream {
		if stream, err = t.helper.Call("new_stream", s.deviceOf(0).String()); err != nil {
			return nil, nil, nil, err
		}
	}
	_, err = t.call("produce", source, values, 0, 0, stream)
	return source, params, values, err
}

// values compares and broadcasts values of the default stream.
func (t *trainer) values(ctx context.Context) error {
	return errors.Join(t.compared(ctx, scenario{}), t.broadcast(ctx, scenario{}))
}

// valuesOfStream compares and broadcasts values of another stream, which the calls do not know.
func (t *trainer) valuesOfStream(ctx context.Context) error {
	return errors.Join(t.compared(ctx, scenario{stream: true}), t.broadcast(ctx, scenario{stream: true}))
}

func (t *trainer) compared(ctx context.Context, s scenario) error {
	_, params, values, err := t.late(s)
	if err != nil {
		return err
	}
	defer closeAll(values)
	err = ddp.VerifyValues(ctx, t.group, params)
	if t.group.Size() > 1 {
		err = says(err, ddp.ErrValues, "p0")
	}
	return err
}

// broadcast has all ranks read rank 0's values where the host has them, in the order of no stream.
func (t *trainer) broadcast(ctx context.Context, s scenario) error {
	source, params, values, err := t.late(s)
	if err != nil {
		return err
	}
	defer closeAll(values)
	if err := ddp.BroadcastParameters(ctx, t.group, params); err != nil {
		return err
	}
	want, err := source.Call("flat", 0, 0)
	if err != nil {
		return err
	}
	defer want.Close()
	if same, err := t.call("same", values, want, true); err != nil || same != true {
		return errors.Join(errors.New("the values are not rank 0's"), err)
	}
	return ddp.VerifyValues(ctx, t.group, params)
}

// digests has the ranks compare parameters on the device at each step. The trainer's stream writes them
// late, so a digest of what is not there yet would be the other step's.
func (t *trainer) digests(ctx context.Context) error {
	s := t.on(scenario{hook: "allreduce"})
	source, params, values, err := t.valued(s)
	if err != nil {
		return err
	}
	hook, closeHook, err := t.hookOf(ctx, s)
	if err != nil {
		return err
	}
	defer closeHook()
	r, err := ddp.NewReducer(ctx, params, ddp.Options{Group: t.group, Hook: hook, DigestEvery: 1, GroupMemory: s.options.GroupMemory})
	if err != nil {
		return err
	}
	defer r.Close()
	own, err := t.gradients(s)
	if err != nil {
		return err
	}
	g := &training{trainer: t, s: s, r: r, own: own, source: source}
	for step := range 3 {
		// Of step 1 the ranks' own, late.
		if _, err := t.call("produce", source, values, step, 0, nil); err != nil {
			return err
		}
		if step != 1 {
			if err := ddp.BroadcastParameters(ctx, t.group, params); err != nil {
				return err
			}
		}
		err := g.step(ctx, step)
		if step != 1 && err != nil {
			return fmt.Errorf("step %d: %w", step, err)
		}
		if step == 1 && t.group.Size() > 1 {
			if err := says(err, ddp.ErrValues, "p0"); err != nil {
				return err
			}
		}
	}
	return nil
}

// stateOfValues makes a hook's state of parameters' values, which the trainer's stream begins to write
// before, and writes again after.
func (t *trainer) stateOfValues(ctx context.Context) error {
	return errors.Join(t.stateOfLate(ctx, scenario{}), t.stateOfLate(ctx, scenario{stream: true}), t.stateOfLate(ctx, scenario{stream: true, listed: true}))
}

func (t *trainer) stateOfLate(ctx context.Context, s scenario) error {
	if t.CUDA { // whose work is not late
		return nil
	}
	s = t.on(s)
	stream, _, err := t.streamOf(s)
	if err != nil {
		return err
	}
	source, params, values, err := t.valued(s)
	if err != nil {
		return err
	}
	defer closeAll(values)
	own, err := t.gradients(s)
	if err != nil {
		return err
	}
	defer closeAll(own)
	if _, err := t.call("produce", source, values, 0, 0, stream); err != nil {
		return err
	}
	hook, closeHook, err := t.hookOfParameters(ctx, params, s)
	if err != nil {
		return err
	}
	defer closeHook()
	for _, p := range params {
		defer p.Close()
	}
	if _, err := t.call("delay", 0); err != nil {
		return err
	}
	_, err = t.call("produce", source, values, 1, 0, stream) // at once: the state has read them
	if _, delay := t.call("delay", 200); err != nil || delay != nil {
		return errors.Join(err, delay)
	}
	r, err := ddp.NewReducer(ctx, params, ddp.Options{Group: t.group, Hook: hook, Buckets: layout, GroupMemory: s.options.GroupMemory})
	if err != nil {
		return err
	}
	defer r.Close()
	for i := range own {
		if err := r.ReadyFrom(i, own[i]); err != nil {
			return err
		}
	}
	if _, err := r.Wait(ctx); err != nil {
		return err
	}
	want, err := source.Call("flat", 0)
	if err != nil {
		return err
	}
	defer want.Close()
	if same, err := t.call("same", own, want, true); err != nil || same != true {
		return errors.Join(errors.New("not the values of when it was made"), err)
	}
	return nil
}

// valueless makes a hook's state of parameters without values before there is any bucket: they are
// where their gradients are.
func (t *trainer) valueless(ctx context.Context) error {
	s := t.on(scenario{})
	_, closeHook, err := t.hookOfParameters(ctx, s.parameters(), s)
	if err == nil {
		closeHook()
	}
	return err
}

// hookOfParameters makes a hook with a state of the parameters, which says where they must be.
func (t *trainer) hookOfParameters(ctx context.Context, params []*c10d.Parameter, s scenario) (c10d.CommHook, func(), error) {
	state := pyhook.StateSpec{Spec: "hooks:Values", Args: map[string]any{"device": s.deviceOf(0).String()}}
	if t.worker != nil {
		hook, err := t.worker.NewHook(ctx, "hooks:of_values", worker.HookConfig{State: state, Parameters: params})
		if err != nil {
			return nil, nil, err
		}
		return hook, hook.Close, nil
	}
	cfg := pyhook.HookConfig{State: state, Group: t.world, Parameters: params}
	if s.listed {
		state.Args["parameters"], cfg.Parameters = params, nil
	}
	hook, err := t.rt.NewHook(ctx, "hooks:of_values", cfg)
	if err != nil {
		return nil, nil, err
	}
	return hook, hook.Close, nil
}

// recorded looks at what a recording takes of a bucket that a stream writes late.
func (t *trainer) recorded(context.Context) error {
	if t.CPU || t.CUDA || t.worker != nil {
		return nil
	}
	right, err := t.call("recorded")
	if err == nil && right != true {
		err = errors.New("the copy is of another time")
	}
	return err
}

// bare calls a hook on buckets of the trainer's own on the device, without a Reducer: in the order of the
// default stream, and of another than a hook's state was made on.
func (t *trainer) bare(ctx context.Context) error {
	if t.CPU || t.worker != nil {
		return nil
	}
	err := t.bareOn(ctx, t.on(scenario{hook: "fp16"}))
	if t.CUDA || t.Backend == alone {
		return err
	}
	lengths := make([]int64, len(shapes)) // a bucket for each parameter
	for i, shape := range shapes {
		lengths[i] = 1
		for _, n := range shape {
			lengths[i] *= n
		}
	}
	s := scenario{hook: "hooks:averaged_to_the_bucket", stream: true, means: map[string]any{"lengths": lengths}, later: true}
	return errors.Join(err, t.bareOn(ctx, s))
}

func (t *trainer) bareOn(ctx context.Context, s scenario) error {
	source, err := t.source(s)
	if err != nil {
		return err
	}
	own, err := t.gradients(s)
	if err != nil {
		return err
	}
	params := s.parameters()
	for i := range params {
		params[i].Data = own[i] // as reduceBare takes them
	}
	stream, handle, err := t.streamOf(s)
	if err != nil {
		return err
	}
	other := s // its buckets are others
	if s.means != nil {
		other.means = map[string]any{}
	}
	want, err := t.wanted(ctx, s.hook, other, source)
	if err != nil {
		return err
	}
	defer t.later(s)()
	hook, closeHook, err := t.hookOf(ctx, s)
	if err != nil {
		return err
	}
	defer closeHook()
	for step := range steps {
		if _, err := t.call("produce", source, own, step, 0, stream); err != nil {
			return err
		}
		for i := range own {
			if err := reduceBare(ctx, hook, params[i], i, handle); err != nil {
				return err
			}
		}
		if same, err := t.call("same", own, want[step], false, stream); err != nil || same != true {
			return errors.Join(fmt.Errorf("step %d: other bits than PyTorch's", step), err)
		}
	}
	return nil
}

// reduceBare has a hook reduce a parameter's Data in place, for a gradient.
func reduceBare(ctx context.Context, hook c10d.CommHook, p *c10d.Parameter, i int, stream c10d.Stream) error {
	gradient := p.Data
	flat, err := gradient.View(0, []int64{gradient.Len()}, []int64{1})
	if err != nil {
		return err
	}
	defer flat.Close()
	b, err := c10d.NewGradBucket(c10d.BucketConfig{Index: i, Count: len(shapes), Buffer: flat, Offsets: []int64{0}, Lengths: []int64{gradient.Len()}, Sizes: [][]int64{gradient.Shape()}, Parameters: []*c10d.Parameter{p}, Stream: stream})
	if err != nil {
		return err
	}
	defer b.Close()
	future, err := hook.RunHook(ctx, b)
	if err != nil {
		return err
	}
	defer future.Close()
	value, err := future.Wait(ctx)
	if err != nil {
		return err
	}
	result, err := hook.ParseHookResult(b, value)
	if err != nil {
		return err
	}
	defer result.Close()
	if result.Data() != flat.Data() {
		return errors.New("the result is not the bucket's memory")
	}
	return nil
}

// has says whether a scenario can be here.
func (t *trainer) has(name string) bool {
	s := scenarios[name]
	if t.CPU {
		return !s.onDevice && !s.power
	}
	return t.Backend != alone || s.devices == nil && s.means == nil
}

// The Reducer gives the bits of PyTorch's own on the same device, with every hook and in every way to
// train.
func TestReducer_parity(t *testing.T) {
	t.Parallel() // it waits more than it computes
	t.Run("sim", func(t *testing.T) { passed(t, run(t, "reduce", settings{}), 2, len(scenarios)) })
	// As on nccl, ddp's own collectives of numbers in the CPU's memory go by the device.
	t.Run("sim alone", func(t *testing.T) { passed(t, run(t, "reduce", settings{Backend: alone}), 2, 50) })
	t.Run("cpu", func(t *testing.T) { passed(t, run(t, "reduce", settings{CPU: true}), 2, 40) })
}

// The same on a GPU, with one rank: nccl takes one for each card. tests/gpu/run.sh runs it.
func TestReducer_cuda(t *testing.T) {
	if os.Getenv("PYHOOK_TEST_GPU") == "" {
		t.Skip("PYHOOK_TEST_GPU is not set: tests/gpu/run.sh runs this test")
	}
	for name, workers := range map[string][]string{"here": nil, "workers": meetings(t)} {
		t.Run(name, func(t *testing.T) {
			with := settings{Python: os.Getenv("PYHOOK_PYTHON"), Backend: "cpu:gloo,cuda:nccl", CUDA: true, Workers: workers}
			job := ranks.RunOptions(t, ranks.Options{N: 1, Case: "reduce", Args: with, Env: []string{"PYHOOK_TRAINER_CUDA=1"}})
			passed(t, job, 1, len(scenarios))
		})
	}
}
