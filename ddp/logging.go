package ddp

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"pyhook/c10d"
)

// LoggingData is what DistributedDataParallel's _get_ddp_logging_data says
// (torch/csrc/distributed/c10d/logger.cpp), under its names: but for what this
// package does not know (forward passes, the module, devices, environment
// variables), and with lists and bools where PyTorch has text and 0 or 1. Times
// are nanoseconds, and the host's: of gradients on a device those of enqueuing.
type LoggingData struct {
	Size                    int      `json:"world_size"`
	Rank                    int      `json:"rank"`
	BackendName             string   `json:"backend_name"`
	CommHook                string   `json:"comm_hook,omitempty"` // with its module; "" without a hook
	NumParameterTensors     int      `json:"num_parameter_tensors"`
	TotalParameterSizeBytes int64    `json:"total_parameter_size_bytes"`
	DTypes                  []string `json:"dtypes"` // sorted, as torch's Python names them
	BucketCapBytes          int64    `json:"bucket_cap_bytes"`
	FindUnusedParameters    bool     `json:"find_unused_parameters"`
	StaticGraph             bool     `json:"static_graph"`
	JoinUnevenInputs        bool     `json:"join_uneven_inputs"` // Options.Join
	// GradientAsBucketView: no gradient of the last step came by ReadyFrom.
	GradientAsBucketView bool `json:"gradient_as_bucket_view"`
	// BucketSizes are those of the first step, in bytes and the order of reduction.
	// A sparse parameter counts with its full size.
	BucketSizes                  []int64 `json:"bucket_sizes"`
	HasRebuiltBuckets            bool    `json:"has_rebuilt_buckets"`
	RebuiltBucketSizes           []int64 `json:"rebuilt_bucket_sizes,omitempty"`
	RebuiltPerBucketParamIndices [][]int `json:"rebuilt_per_bucket_param_indices,omitempty"`

	// Iteration is how many steps were reduced, Join's too.
	Iteration int `json:"iteration"`
	// UnusedParameterSize is the bytes of parameters that this rank did not use in
	// the last step, with UnusedFind.
	UnusedParameterSize int64 `json:"unused_parameter_size"`
	// HasError: a step has failed. Error is that of the last one that did.
	HasError bool   `json:"has_error"`
	Error    string `json:"error,omitempty"`

	// Of the last step that was reduced: from the first mark to the last one (Wait
	// makes those of unused parameters, and all of StaticGraph's first step); from the first hook call to the
	// last future's end; and the time in both. Then their averages over such steps.
	BackwardComputeTime               int64 `json:"backward_compute_time"`
	BackwardCommTime                  int64 `json:"backward_comm_time"`
	BackwardComputeCommOverlapTime    int64 `json:"backward_compute_comm_overlap_time"`
	AvgBackwardComputeTime            int64 `json:"avg_backward_compute_time"`
	AvgBackwardCommTime               int64 `json:"avg_backward_comm_time"`
	AvgBackwardComputeCommOverlapTime int64 `json:"avg_backward_compute_comm_overlap_time"`
	// Since 1970.
	BackwardComputeTimeStart int64 `json:"backward_compute_time_start"`
	BackwardComputeTimeEnd   int64 `json:"backward_compute_time_end"`
	BackwardCommTimeStart    int64 `json:"backward_comm_time_start"`
	BackwardCommTimeEnd      int64 `json:"backward_comm_time_end"`
}

// clock is when a step's marks were made.
type clock struct {
	first, last time.Time
	left        int // not marked yet
}

func (c *clock) mark() {
	c.left--
	if c.first.IsZero() {
		c.first = time.Now()
	}
	if c.left == 0 {
		c.last = time.Now()
	}
}

// log is what LoggingData needs of the steps; the reducer's mutex guards it.
type log struct {
	sizes   []int64 // of the first buckets
	steps   int     // reduced
	timed   int64   // of those, by this rank's own gradients
	inView  bool
	unused  int64
	err     error
	times   [4]time.Time     // compute's start and end, comm's
	last    [3]time.Duration // compute, comm, both
	sum     [3]time.Duration
	rebuilt bool
}

// LoggingData returns a snapshot; it may be asked for at any time, from any
// goroutine. Each rank has its own.
func (r *Reducer) LoggingData() LoggingData {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := &r.log
	d := LoggingData{
		Size: r.opts.Group.Size(), Rank: r.opts.Group.Rank(), BackendName: r.opts.Group.Backend(), CommHook: r.hookName(),
		NumParameterTensors: len(r.params), BucketCapBytes: r.opts.limits()[1], BucketSizes: slices.Clone(l.sizes),
		FindUnusedParameters: r.opts.Unused == UnusedFind, StaticGraph: r.opts.StaticGraph, JoinUnevenInputs: r.opts.Join,
		GradientAsBucketView: l.inView, HasRebuiltBuckets: l.rebuilt, Iteration: l.steps, UnusedParameterSize: l.unused,
	}
	for _, p := range r.params {
		d.TotalParameterSizeBytes += parameterBytes(p)
		if name := p.DType.String(); !slices.Contains(d.DTypes, name) {
			d.DTypes = append(d.DTypes, name)
		}
	}
	slices.Sort(d.DTypes)
	if l.rebuilt {
		d.RebuiltBucketSizes = r.bucketSizes()
		for _, b := range r.buckets {
			d.RebuiltPerBucketParamIndices = append(d.RebuiltPerBucketParamIndices, slices.Clone(b.params))
		}
	}
	if l.err != nil {
		d.HasError, d.Error = true, l.err.Error()
	}
	if l.timed > 0 {
		d.setTimes(l)
	}
	return d
}

func (d *LoggingData) setTimes(l *log) {
	for i, to := range []*int64{&d.BackwardComputeTime, &d.BackwardCommTime, &d.BackwardComputeCommOverlapTime} {
		*to = l.last[i].Nanoseconds()
	}
	for i, to := range []*int64{&d.AvgBackwardComputeTime, &d.AvgBackwardCommTime, &d.AvgBackwardComputeCommOverlapTime} {
		*to = l.sum[i].Nanoseconds() / l.timed
	}
	for i, to := range []*int64{&d.BackwardComputeTimeStart, &d.BackwardComputeTimeEnd, &d.BackwardCommTimeStart, &d.BackwardCommTimeEnd} {
		// Not each one's own: the wall clock may have been set meanwhile.
		*to = l.times[0].UnixNano() + l.times[i].Sub(l.times[0]).Nanoseconds()
	}
}

// hookName is PyTorch's hook.__qualname__ with its module, or a Go type.
func (r *Reducer) hookName() string {
	switch h := r.opts.Hook.(type) {
	case sumHook:
		return ""
	case c10d.NamedHook:
		return h.Name()
	}
	return fmt.Sprintf("%T", r.opts.Hook)
}

func parameterBytes(p *c10d.Parameter) int64 { return elements(p) * int64(p.DType.Size()) }

// bucketSizes are the buckets' bytes.
func (r *Reducer) bucketSizes() []int64 {
	sizes := make([]int64, len(r.buckets))
	for i, b := range r.buckets {
		for _, p := range b.params {
			sizes[i] += parameterBytes(r.params[p])
		}
	}
	return sizes
}

// logStep notes a step that Wait ended.
func (r *Reducer) logStep(s *step, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := &r.log
	if errors.Is(err, errAllJoined) {
		return
	}
	if err != nil {
		l.err = err
		return
	}
	l.steps++
	if s.joined {
		return
	}
	l.inView = true
	l.unused = 0
	for i, p := range r.params {
		l.inView = l.inView && s.copyBack[i] == nil
		if r.findUnused && s.used[i] == 0 {
			l.unused += parameterBytes(p)
		}
	}
	l.times = [4]time.Time{s.clock.first, s.clock.last, s.results[0].start, s.results[0].start}
	for _, res := range s.results {
		if end := res.start.Add(res.timing.Total); end.After(l.times[3]) {
			l.times[3] = end
		}
	}
	start, end := l.times[2], l.times[1]
	if l.times[0].After(start) {
		start = l.times[0]
	}
	if l.times[3].Before(end) {
		end = l.times[3]
	}
	l.last = [3]time.Duration{l.times[1].Sub(l.times[0]), l.times[3].Sub(l.times[2]), max(0, end.Sub(start))}
	for i, d := range l.last {
		l.sum[i] += d
	}
	l.timed++
}
