package replay

import (
	"context"
	"fmt"
	"math"

	"pyhook/c10d"
	"pyhook/ddp"
	"pyhook/internal/trace"
	"pyhook/tensor"
	"pyhook/tensorconv"
)

// bucketKey is what makes two calls' buckets one.
type bucketKey struct{ index, count, layout int }

// replayBucket is a bucket and its memory, kept over the steps of one layout, as a Reducer does.
type replayBucket struct {
	bucket *c10d.GradBucket
	buffer *tensor.Tensor
	used   int // the step that used it last
}

func (b *replayBucket) close() {
	b.bucket.Close()
	b.buffer.Close()
}

// call is one hook call of the step that is under way.
type call struct {
	recorded *trace.Call
	bucket   *c10d.GradBucket
	future   *c10d.Future[c10d.Result]
	chain    c10d.Chain
	more     bool // the chain is not at its end
}

// step replays one step: all its calls, in the order that is asked for, and compares.
func (r *rankRun) step(ctx context.Context, s *trace.Step) error {
	ctx, cancel := context.WithTimeout(ctx, r.plan.Timeout)
	defer cancel()
	if err := r.loadState(ctx, s); err != nil {
		return err
	}
	var calls []*call
	defer func() {
		for _, c := range calls {
			if c.chain != nil {
				c.chain.Close()
			}
			if c.future != nil {
				c.future.Close()
			}
		}
	}()
	for i := range s.Calls {
		if why := s.Calls[i].Skipped; why != "" {
			r.report.Skipped = append(r.report.Skipped, fmt.Sprintf("step %d, bucket %d: %s", s.Step, i, why))
			continue
		}
		c := &call{recorded: &s.Calls[i]}
		calls = append(calls, c)
		if err := r.start(ctx, s, c); err != nil {
			return fmt.Errorf("bucket %d: %w", i, err)
		}
	}
	if err := r.advance(ctx, calls); err != nil {
		return err
	}
	for _, c := range calls {
		if err := r.finish(ctx, s, c); err != nil {
			return fmt.Errorf("bucket %d: %w", c.recorded.Bucket, err)
		}
	}
	r.dropUnused(s.Step)
	return nil
}

// start fills a call's bucket and calls the hook. In the serial order all of its callbacks have
// run when it returns.
func (r *rankRun) start(ctx context.Context, s *trace.Step, c *call) (err error) {
	b, err := r.bucketOf(s, c.recorded)
	if err != nil {
		return err
	}
	c.bucket = b.bucket
	if err := r.fill(ctx, c.recorded, b.buffer); err != nil {
		return err
	}
	if r.python == nil || r.order == ddp.OrderOverlapped {
		c.future, err = r.hook.RunHook(ctx, c.bucket)
		return err
	}
	if c.future, c.chain, err = r.python.RunHookChained(ctx, c.bucket); err != nil {
		return err
	}
	c.more = true
	for r.order == ddp.OrderSerial && c.more {
		if c.more, err = c.chain.Advance(ctx); err != nil {
			return err
		}
	}
	return nil
}

// advance runs the callbacks of chains that are not at their end, level by level, in the order of
// the buckets: the same on every rank.
func (r *rankRun) advance(ctx context.Context, calls []*call) (err error) {
	for running := true; running; {
		running = false
		for _, c := range calls {
			if !c.more {
				continue
			}
			if c.more, err = c.chain.Advance(ctx); err != nil {
				return fmt.Errorf("bucket %d: %w", c.recorded.Bucket, err)
			}
			running = running || c.more
		}
	}
	return nil
}

// bucketOf returns the bucket of a recorded call.
func (r *rankRun) bucketOf(s *trace.Step, recorded *trace.Call) (*replayBucket, error) {
	key := bucketKey{recorded.Bucket, len(s.Calls), recorded.Layout}
	if b := r.cache[key]; b != nil {
		b.used = s.Step
		return b, nil
	}
	layout := &r.rank.Layouts[recorded.Layout]
	dtype, err := r.rank.DTypeOf(layout.DType)
	if err != nil {
		return nil, &trace.Error{Path: r.rank.Path(), Detail: err.Error()}
	}
	cfg := c10d.BucketConfig{Index: key.index, Count: key.count}
	for _, g := range layout.Gradients {
		cfg.Offsets, cfg.Lengths, cfg.Sizes = append(cfg.Offsets, g.Offset), append(cfg.Lengths, g.Length), append(cfg.Sizes, g.Shape)
		cfg.Parameters = append(cfg.Parameters, r.params[g.Parameter])
	}
	if cfg.Buffer, err = tensor.New(dtype, layout.Numel); err != nil {
		return nil, err
	}
	bucket, err := c10d.NewGradBucket(cfg)
	if err != nil {
		cfg.Buffer.Close()
		return nil, err
	}
	b := &replayBucket{bucket: bucket, buffer: cfg.Buffer, used: s.Step}
	r.cache[key] = b
	return b, nil
}

// dropUnused closes the buckets of layouts that the step did not have: DDP makes them anew once.
func (r *rankRun) dropUnused(step int) {
	for key, b := range r.cache {
		if b.used != step {
			b.close()
			delete(r.cache, key)
		}
	}
}

// fill reads a call's input into the bucket, and puts torch's generator where it was.
func (r *rankRun) fill(ctx context.Context, recorded *trace.Call, buffer *tensor.Tensor) error {
	file, err := r.rank.OpenTensors(recorded.File)
	if err != nil {
		return err
	}
	defer file.Close()
	raw, err := tensor.RawBytes(buffer)
	if err != nil {
		return err
	}
	if err := file.Read("input", raw); err != nil {
		return err
	}
	if !file.Has("random") || r.python == nil {
		return nil
	}
	state, err := tensor.New(tensor.UInt8, min(file.Length("random"), 1<<20))
	if err != nil {
		return err
	}
	defer state.Close()
	if raw, err = tensor.RawBytes(state); err != nil {
		return err
	}
	if err := file.Read("random", raw); err != nil {
		return err
	}
	object, err := tensorconv.ToPython(state)
	if err != nil {
		return err
	}
	defer object.Close()
	return r.torch(ctx, "set_rng_state", object)
}

// finish waits for a call's result and compares it.
func (r *rankRun) finish(ctx context.Context, s *trace.Step, c *call) error {
	value, err := c.future.Wait(ctx)
	if err != nil {
		return err
	}
	result, err := r.hook.ParseHookResult(c.bucket, value)
	if err != nil {
		return err
	}
	defer result.Close()
	file, err := r.rank.OpenTensors(c.recorded.File)
	if err != nil {
		return err
	}
	defer file.Close()
	if c.recorded.Result.MisreadByDDP() {
		r.report.Misread = append(r.report.Misread, CallID{s.Step, c.recorded.Bucket})
	}
	r.report.Compared++
	difference, err := r.compare(c, file, result)
	if err != nil || difference == nil {
		return err
	}
	difference.Step, difference.Bucket, difference.Rank = s.Step, c.recorded.Bucket, r.rank.Rank
	if math.IsNaN(float64(difference.Replayed)) && !math.IsNaN(float64(difference.Recorded)) {
		r.noteOnce("where PyTorch has a number the result is NaN: so are all weights here, which are not recorded, for a hook that computes with them")
	}
	r.report.LargestError = max(r.report.LargestError, difference.Relative)
	r.report.Differences = append(r.report.Differences, *difference)
	return nil
}
