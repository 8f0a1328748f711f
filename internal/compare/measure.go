package compare

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"pyhook/c10d"
	"pyhook/internal/hookspec"
	"pyhook/internal/quantile"
	"pyhook/internal/wire"
	"pyhook/pyhook"
	"pyhook/tensor"
)

// keptBytes is how large a model's buckets may be to stay in memory between steps, as a Reducer's do.
// Those of larger ones are made for each call.
const keptBytes = 1 << 30

// Plan is what every rank does, for one hook.
type Plan struct {
	Hook    hookspec.Spec
	Source  SourceConfig
	Steps   int
	Timeout time.Duration // of each hook call
}

// RankResult is what a rank measured.
type RankResult struct {
	Rank, Size  int
	Name        string // the hook's module and qualified name
	Torch       string
	Python      string
	Backend     string
	Gradients   string // Source.Describe
	Calibration Calibration
	Steps       []RankStep
	Buckets     []BucketCost
	Deviations  []Deviation // rank 0's, by step
	Stride      int64       // Deviation.Accumulated is over each Stride-th element
	StateBytes  int64
	NoBytes     string // why bytes could not be counted
	Untimed     []string
}

// RankStep is one step on one rank.
type RankStep struct {
	Sent              uint64 // TCP payload of the hook's calls
	Seconds           float64
	CollectiveSeconds float64
}

// measuring is one rank's measurement.
type measuring struct {
	plan   *Plan
	rt     *pyhook.Runtime
	group  *pyhook.TorchGroup
	source Source
	doing  func(string) // what the rank does now, for a deadline

	params  []*c10d.Parameter
	hook    c10d.CommHook
	meter   wire.Meter
	counter *pyhook.Object // collective_meter.py
	kept    []*bucketMemory
	errors  *deviation
	result  *RankResult
	hooks   [][]float64 // hook seconds, by bucket and step
	during  [][]float64 // the collectives'
	closes  []func()
}

// bucketMemory is a bucket and its buffer.
type bucketMemory struct {
	bucket *c10d.GradBucket
	buffer *tensor.Tensor
}

func (b *bucketMemory) close() {
	b.bucket.Close()
	b.buffer.Close()
}

// Measure runs one hook on this rank. doing is called with what it does now, on the measuring
// goroutine; an empty text is a hook's call. All ranks call Measure with the same plan. After an
// error Python and the group may be of no more use.
func Measure(ctx context.Context, rt *pyhook.Runtime, group *pyhook.TorchGroup, plan *Plan, doing func(string)) (*RankResult, error) {
	m := &measuring{plan: plan, rt: rt, group: group, doing: doing, result: &RankResult{Rank: group.Rank(), Size: group.Size(), Backend: group.Backend()}}
	m.result.Torch, m.result.Python = rt.Info().Torch, rt.Info().Version
	var err error
	ran := rt.RunOnMain(ctx, func() { err = m.run(ctx) })
	for _, f := range slices.Backward(m.closes) {
		f()
	}
	if ran != nil {
		return nil, ran
	}
	return m.result, err
}

func (m *measuring) run(ctx context.Context) (err error) {
	m.doing("making the gradients' source")
	if m.source, err = NewSource(m.plan.Source); err != nil {
		return err
	}
	if closer, ok := m.source.(*Recording); ok {
		m.closes = append(m.closes, closer.Close)
	}
	m.result.Gradients = m.source.Describe()
	m.doing("measuring this machine's collectives")
	if m.result.Calibration, err = m.calibrate(ctx); err != nil {
		return err
	}
	m.doing("loading the hook")
	if err := m.makeHook(ctx); err != nil {
		return err
	}
	if err := m.makeMemory(); err != nil {
		return err
	}
	m.hooks, m.during = make([][]float64, len(m.source.Buckets())), make([][]float64, len(m.source.Buckets()))
	m.result.Buckets = make([]BucketCost, len(m.source.Buckets()))
	for step := range m.plan.Steps {
		if err := m.step(ctx, step); err != nil {
			return err
		}
	}
	for b := range m.result.Buckets {
		m.result.Buckets[b].Elements = m.source.Buckets()[b].Elements
		m.result.Buckets[b].HookSeconds, m.result.Buckets[b].CollectiveSeconds = steady(m.hooks[b]), steady(m.during[b])
	}
	return m.measureState()
}

// makeHook makes the parameters, the hook and its state.
func (m *measuring) makeHook(ctx context.Context) (err error) {
	dtypes := map[int]tensor.DType{}
	for _, b := range m.source.Buckets() {
		for _, i := range b.Parameters {
			dtypes[i] = b.DType
		}
	}
	for i, p := range m.source.Parameters() {
		one := &c10d.Parameter{Name: p.Name, Shape: p.Shape, DType: dtypes[i]}
		m.params = append(m.params, one)
		m.closes = append(m.closes, one.Close)
	}
	if m.counter, err = m.rt.Import(ctx, "pyhook._runtime.collective_meter"); err != nil {
		return err
	}
	m.closes = append(m.closes, m.counter.Close)
	if _, err := m.counter.CallValue("install"); err != nil {
		return err
	}
	hook, closeHook, err := m.plan.Hook.Make(ctx, m.rt, m.group, m.params)
	if err != nil {
		return err
	}
	m.hook = hook
	m.closes = append(m.closes, closeHook)
	m.result.Name = fmt.Sprintf("%T", hook)
	if named, ok := hook.(c10d.NamedHook); ok {
		m.result.Name = named.Name()
	}
	return nil
}

// makeMemory makes the buckets, where all of them fit, and what errors are measured in.
func (m *measuring) makeMemory() error {
	buckets := m.source.Buckets()
	total, bytes := int64(0), int64(0)
	for _, b := range buckets {
		total += b.Elements
		bytes += b.Elements * int64(b.DType.Size())
	}
	m.kept = make([]*bucketMemory, len(buckets))
	if bytes <= keptBytes {
		for i := range buckets {
			memory, err := m.newBucket(i)
			if err != nil {
				return err
			}
			m.kept[i] = memory
			m.closes = append(m.closes, memory.close)
		}
	}
	if _, err := m.meter.SentBytes(); err != nil {
		m.result.NoBytes = err.Error()
	}
	if m.group.Rank() != 0 {
		return nil
	}
	var err error
	if m.errors, err = newDeviation(total); err != nil {
		return err
	}
	m.result.Stride = m.errors.stride
	m.closes = append(m.closes, m.errors.close)
	return nil
}

func (m *measuring) newBucket(index int) (*bucketMemory, error) {
	buckets := m.source.Buckets()
	b := buckets[index]
	buffer, err := tensor.New(b.DType, b.Elements)
	if err != nil {
		return nil, err
	}
	cfg := c10d.BucketConfig{Index: index, Count: len(buckets), Buffer: buffer, Offsets: b.Offsets}
	for _, i := range b.Parameters {
		p := m.source.Parameters()[i]
		cfg.Lengths, cfg.Sizes = append(cfg.Lengths, p.elements()), append(cfg.Sizes, p.Shape)
		cfg.Parameters = append(cfg.Parameters, m.params[i])
	}
	bucket, err := c10d.NewGradBucket(cfg)
	if err != nil {
		buffer.Close()
		return nil, err
	}
	return &bucketMemory{bucket, buffer}, nil
}

func (m *measuring) step(ctx context.Context, step int) error {
	m.result.Steps = append(m.result.Steps, RankStep{})
	for index := range m.source.Buckets() {
		if err := m.reduce(ctx, step, index); err != nil {
			return err
		}
	}
	if m.errors == nil {
		return nil
	}
	deviation, ok := m.errors.step()
	if !ok {
		return &c10d.Error{Op: m.plan.Hook.Hook, Rank: m.group.Rank(), Bucket: -1, Code: c10d.ErrBadResult,
			Detail: fmt.Sprintf("the results of step %d are not finite, or the gradients are all zero: there is no error to measure", step),
			Hint:   "pyhook check names the bucket"}
	}
	m.result.Deviations = append(m.result.Deviations, deviation)
	return nil
}

// reduce has the hook reduce one bucket, and compares the result on rank 0.
func (m *measuring) reduce(ctx context.Context, step, index int) (err error) {
	m.doing("making gradients")
	memory := m.kept[index]
	if memory == nil {
		if memory, err = m.newBucket(index); err != nil {
			return err
		}
		defer memory.close()
	}
	if err := m.source.Fill(step, index, m.group.Rank(), memory.buffer); err != nil {
		return err
	}
	m.doing("waiting for the other ranks")
	if err := m.group.Barrier(ctx); err != nil {
		return err
	}
	result, err := m.call(ctx, step, index, memory.bucket)
	if err != nil {
		return err
	}
	defer result.Close()
	if m.errors == nil {
		return nil
	}
	m.doing("comparing the results with the mean")
	gradients := make([]*tensor.Tensor, m.group.Size())
	for rank := range gradients {
		if gradients[rank], err = tensor.New(memory.buffer.DType(), memory.buffer.Len()); err != nil {
			return err
		}
		defer gradients[rank].Close()
		if err := m.source.Fill(step, index, rank, gradients[rank]); err != nil {
			return err
		}
	}
	return m.errors.add(result, gradients)
}

// call times one call of the hook.
func (m *measuring) call(ctx context.Context, step, index int, bucket *c10d.GradBucket) (*tensor.Tensor, error) {
	before, _ := m.meter.SentBytes()
	m.doing("")
	ctx, cancel := context.WithTimeout(ctx, m.plan.Timeout)
	defer cancel()
	start, err := m.counter.CallValue("start")
	if err != nil {
		return nil, err
	}
	future, err := m.runHook(ctx, bucket)
	if err != nil {
		return nil, err
	}
	defer future.Close()
	value, err := future.Wait(ctx)
	if err != nil {
		return nil, err
	}
	text, err := m.counter.CallValue("take")
	if err != nil {
		return nil, err
	}
	after, _ := m.meter.SentBytes()
	if err := m.account(step, index, start, text); err != nil {
		return nil, err
	}
	m.result.Steps[step].Sent += after - before
	m.doing("reading the result")
	return m.hook.ParseHookResult(bucket, value)
}

// runHook calls the hook; a chained one's callbacks run here, as a Reducer has them run.
func (m *measuring) runHook(ctx context.Context, bucket *c10d.GradBucket) (*c10d.Future[c10d.Result], error) {
	chained, ok := m.hook.(c10d.ChainedHook)
	if !ok {
		return m.hook.RunHook(ctx, bucket)
	}
	future, chain, err := chained.RunHookChained(ctx, bucket)
	if err != nil {
		return nil, err
	}
	defer chain.Close()
	for more := true; more; {
		if more, err = chain.Advance(ctx); err != nil {
			future.Close()
			return nil, err
		}
	}
	return future, nil
}

// noted is what collective_meter.take returns.
type noted struct {
	Noted [][4]any `json:"noted"` // kind, bytes, start, end or null
	Now   int64    `json:"now"`
}

// account takes what the counter noted of a call.
func (m *measuring) account(step, index int, start, text any) error {
	began, ok := start.(int64)
	asText, isText := text.(string)
	var n noted
	if !ok || !isText {
		return fmt.Errorf("compare: the meter gave %T and %T", start, text)
	}
	if err := json.Unmarshal([]byte(asText), &n); err != nil {
		return fmt.Errorf("compare: reading the meter: %w", err)
	}
	var spans [][2]float64
	var collectives []Collective
	for _, one := range n.Noted {
		kind, _ := one[0].(string)
		size, _ := one[1].(float64)
		from, _ := one[2].(float64)
		collectives = append(collectives, Collective{kind, int64(size)})
		if to, done := one[3].(float64); done {
			spans = append(spans, [2]float64{from, to})
		} else if !slices.Contains(m.result.Untimed, kind) {
			m.result.Untimed = append(m.result.Untimed, kind)
		}
	}
	total := float64(n.Now-began) / 1e9
	in := min(covered(spans)/1e9, total)
	m.result.Buckets[index].Collectives = collectives // of the last step in the end
	m.result.Steps[step].Seconds += total
	m.result.Steps[step].CollectiveSeconds += in
	m.hooks[index], m.during[index] = append(m.hooks[index], total-in), append(m.during[index], in)
	return nil
}

// covered is the length of the union of the spans.
func covered(spans [][2]float64) float64 {
	slices.SortFunc(spans, func(a, b [2]float64) int { return cmp.Compare(a[0], b[0]) })
	length, end := 0.0, 0.0
	for _, s := range spans {
		if from := max(s[0], end); s[1] > from {
			length += s[1] - from
			end = s[1]
		}
	}
	return length
}

// measureState asks how much memory the hook's state holds.
func (m *measuring) measureState() error {
	python, ok := m.hook.(*pyhook.PythonCommHook)
	if !ok {
		return nil
	}
	size, err := m.counter.CallValue("state_bytes", python.State(), python.Hook())
	if err != nil {
		return err
	}
	m.result.StateBytes, ok = size.(int64)
	if !ok {
		return fmt.Errorf("compare: the state's size is %T", size)
	}
	return nil
}

// steady is the median of the second half: hooks such as PowerSGD begin to compress after some
// steps.
func steady(values []float64) float64 { return quantile.Median(values[len(values)/2:]) }
