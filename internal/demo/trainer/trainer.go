// Package trainer is the demo: one rank's part of training a small network in plain Go on
// handwritten digits, with the gradients reduced by any communication hook.
//
// It is the program that `pyhook train` runs on every rank, and an example of package ddp in use.
package trainer

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"time"

	"pyhook/c10d"
	"pyhook/ddp"
	"pyhook/internal/demo/checkpoint"
	"pyhook/internal/demo/digits"
	"pyhook/internal/demo/mlp"
	"pyhook/internal/gather"
	"pyhook/internal/quantile"
	"pyhook/internal/timeline"
	"pyhook/internal/wire"
	"pyhook/launch"
	"pyhook/pyhook"
	"pyhook/tensor"
)

// traceLimit is how many spans a rank keeps: some 20 MB of JSON, all of which goes to every rank in
// the end.
const traceLimit = 100_000

// run is one rank's training.
type run struct {
	cfg     Config
	world   launch.World
	rt      *pyhook.Runtime
	group   *pyhook.TorchGroup
	reducer *ddp.Reducer
	train   digits.Dataset
	test    digits.Dataset
	network *mlp.Network
	sgd     *mlp.SGD
	params  []*c10d.Parameter
	grads   [][]float32 // views of the reducer's buckets
	record  *ddp.Timeline

	keeper checkpoint.Keeper
	first  int // the step that training starts at
	loss   []float64
	step   []time.Duration
	reduce []time.Duration
}

// Run trains on one rank of world and returns when all ranks are done. on is
// called after each step. The runtime is the caller's.
func Run(ctx context.Context, rt *pyhook.Runtime, world launch.World, cfg Config, on func(Event)) (*Report, error) {
	if err := cfg.Check(world.Size); err != nil {
		return nil, err
	}
	r := &run{cfg: cfg, world: world, rt: rt}
	if cfg.Trace != "" {
		r.record = ddp.NewTimeline(world.Rank)
		r.record.SetLimit(traceLimit)
	}
	if err := r.load(); err != nil {
		return nil, err
	}
	var err error
	r.group, err = rt.InitProcessGroup(ctx, pyhook.GroupConfig{Backend: cfg.Backend, Rank: world.Rank, Size: world.Size, Timeout: cfg.Timeout})
	if err != nil {
		return nil, err
	}
	defer r.group.Close()
	defer r.closeParameters()
	if err := r.makeParameters(); err != nil {
		return nil, err
	}
	hook, closeHook, err := cfg.Hook.Make(ctx, rt, r.group, r.params)
	if err != nil {
		return nil, err
	}
	defer closeHook()
	r.keeper = checkpoint.Keeper{Path: cfg.Save, Group: r.group, Hook: hook}
	if cfg.Resume == cfg.Save {
		r.keeper.Saved = r.first
	}
	if err := r.restoreHook(ctx); err != nil {
		return nil, err
	}
	if err := r.makeReducer(ctx); err != nil {
		return nil, err
	}
	defer r.reducer.Close()
	return r.measure(ctx, on)
}

// load reads the data and makes the network, or restores it.
func (r *run) load() error {
	all, err := digits.Load()
	if err != nil {
		return err
	}
	r.train, r.test = all.Split(r.cfg.Seed)
	r.network = mlp.New(slices.Concat([]int{digits.Features}, r.cfg.Hidden, []int{digits.Classes}), r.cfg.Seed)
	r.sgd = &mlp.SGD{LR: r.cfg.LR, Momentum: r.cfg.Momentum}
	if r.cfg.Resume != "" {
		r.first, err = r.restore()
	}
	return err
}

// makeParameters makes the network's parameters, which the hook may be made with.
func (r *run) makeParameters() error {
	for _, p := range r.network.Params() {
		data, err := tensor.FromSlice(p.Value, p.Shape...)
		if err != nil {
			return err
		}
		r.params = append(r.params, &c10d.Parameter{Name: p.Name, Shape: p.Shape, DType: tensor.Float32, Data: data})
	}
	return nil
}

// makeReducer makes the reducer over the network's parameters.
func (r *run) makeReducer(ctx context.Context) error {
	var err error
	r.reducer, err = ddp.NewReducer(ctx, r.params, ddp.Options{Group: r.group, Hook: r.keeper.Hook, BucketCapMB: r.cfg.BucketCapMB, Order: r.cfg.Order, Timeline: r.record})
	if err != nil {
		return err
	}
	for i := range r.params {
		grad, err := tensor.Slice[float32](r.reducer.Gradient(i))
		if err != nil {
			r.reducer.Close()
			return err
		}
		r.grads = append(r.grads, grad)
	}
	return nil
}

func (r *run) closeParameters() {
	for _, p := range r.params {
		p.Close()
		p.Data.Close()
	}
}

// measure trains and makes the report.
func (r *run) measure(ctx context.Context, on func(Event)) (*Report, error) {
	if err := r.group.Barrier(ctx); err != nil {
		return nil, err
	}
	var meter wire.Meter
	before, wireErr := meter.SentBytes()
	start := time.Now()
	if err := r.epochs(ctx, on); err != nil {
		return nil, err
	}
	elapsed := time.Since(start)
	// All ranks have sent what they will before anyone looks at the end.
	if err := r.group.Barrier(ctx); err != nil {
		return nil, err
	}
	after, err := meter.SentBytes()
	if wireErr != nil || err != nil {
		before, after = 0, 0 // not counted on this system
	}
	report := &Report{Hook: r.cfg.Hook.Hook, Rank: r.world.Rank, Size: r.world.Size, Launcher: string(r.world.Source),
		Steps: len(r.step), FirstStep: r.first, Buckets: len(r.reducer.Buckets()), Order: r.reducer.Order().String(),
		MsPerStep: medianMs(r.step), ReduceMs: medianMs(r.reduce), Torch: r.rt.Info().Torch, Python: r.rt.Info().Version, TrainSeconds: elapsed.Seconds()}
	for _, p := range r.params {
		report.Parameters += p.Data.Len()
	}
	report.Accuracy, _ = r.network.Evaluate(r.test.X, r.test.Y)
	return report, r.compare(ctx, report, after-before)
}

// epochs takes every step.
func (r *run) epochs(ctx context.Context, on func(Event)) error {
	step := 0
	for epoch := range r.cfg.Epochs {
		batches, err := r.train.Batches(r.cfg.Seed, epoch, r.cfg.Batch, r.world.Rank, r.world.Size)
		if err != nil {
			return err
		}
		steps := len(batches) * r.cfg.Epochs
		if step+len(batches) <= r.first { // done before the checkpoint
			step += len(batches)
			continue
		}
		for _, batch := range batches {
			loss, err := r.oneStep(ctx, batch)
			if err != nil {
				return fmt.Errorf("epoch %d, step %d: %w", epoch, step, err)
			}
			step++
			r.loss = append(r.loss, loss)
			on(Event{Step: step, Steps: steps, Epoch: epoch, Loss: loss})
		}
		if err := r.save(ctx, step); err != nil {
			return err
		}
	}
	return nil
}

func (r *run) oneStep(ctx context.Context, batch digits.Dataset) (float64, error) {
	start := time.Now()
	var readyErr error
	loss := r.network.Backward(batch.X, batch.Y, r.grads, func(i int) {
		if err := r.reducer.Ready(i); err != nil {
			readyErr = err
		}
	})
	if readyErr != nil {
		return 0, readyErr
	}
	r.record.Since(start, "trainer", "forward and backward")
	waiting := time.Now()
	if _, err := r.reducer.Wait(ctx); err != nil {
		return 0, err
	}
	r.reduce = append(r.reduce, time.Since(waiting))
	stepping := time.Now()
	r.sgd.Step(r.network.Params(), r.grads)
	r.record.Since(stepping, "trainer", "optimiser")
	r.step = append(r.step, time.Since(start))
	return loss, nil
}

// rankResult is what each rank sends to the others at the end.
type rankResult struct {
	WeightsSHA string
	Sent       uint64
	Loss       []byte          // little-endian float64: JSON has no NaN
	Trace      json.RawMessage `json:",omitempty"`
}

// compare fills in what the report says of all ranks. Rank 0 writes their timelines.
func (r *run) compare(ctx context.Context, report *Report, sent uint64) error {
	sum := r.network.Checksum()
	mine := rankResult{WeightsSHA: hex.EncodeToString(sum[:]), Sent: sent}
	var err error
	if mine.Loss, err = binary.Append(nil, binary.LittleEndian, r.loss); err != nil {
		return err
	}
	if r.record != nil {
		var trace bytes.Buffer
		if _, err := r.record.WriteTo(&trace); err != nil {
			return err
		}
		mine.Trace = trace.Bytes()
	}
	ranks, err := gather.JSON(ctx, r.group, mine)
	if err != nil {
		return err
	}
	report.WeightsSHA, report.WeightsIdentical = mine.WeightsSHA, true
	report.Loss = make([]float64, len(r.loss))
	var traces []io.Reader
	for _, rank := range ranks {
		report.WeightsIdentical = report.WeightsIdentical && rank.WeightsSHA == mine.WeightsSHA
		report.BytesOnWire += rank.Sent
		theirs := make([]float64, len(r.loss))
		if _, err := binary.Decode(rank.Loss, binary.LittleEndian, theirs); err != nil {
			return err
		}
		for i, loss := range theirs {
			report.Loss[i] += loss / float64(len(ranks))
		}
		traces = append(traces, bytes.NewReader(rank.Trace))
	}
	if r.record == nil || r.world.Rank != 0 {
		return nil
	}
	return timeline.MergeToFile(r.cfg.Trace, traces...)
}

// medianMs is 0 where no step was left to do.
func medianMs(durations []time.Duration) float64 {
	if len(durations) == 0 {
		return 0
	}
	return quantile.Median(durations) / float64(time.Millisecond)
}
