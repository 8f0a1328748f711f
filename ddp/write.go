package ddp

import (
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"pyhook/tensor"
)

// manyBytes is from where on copying takes so much longer than starting
// goroutines that several of them do it.
const manyBytes = 4 << 20

// writeResults writes the results, by bucket, to where the trainer looks for
// them. All are good, so nothing is left to decide; PyTorch writes a bucket while
// it waits for the next, and so has written some of them when one fails.
func (r *Reducer) writeResults(s *step, reduced []*tensor.Tensor) error {
	// In order: a hook may give one bucket's memory as another's result.
	for i, t := range reduced {
		if err := r.writeBucket(s, i, t); err != nil {
			return r.stepError(i, err)
		}
	}
	return r.writeGradients(s)
}

// writeBucket writes a result into its bucket: nothing to do for most hooks,
// which give the bucket's own memory.
func (r *Reducer) writeBucket(s *step, index int, reduced *tensor.Tensor) error {
	defer r.trace.copied(time.Now(), index)
	b := r.buckets[index]
	b.dirty = false
	if b.sparse {
		r.storeReduced(s.results[index], b)
		return nil
	}
	return r.memory.Copy(b.buffer, reduced)
}

// writeGradients copies the buckets to the trainer's own memory, where gradients
// came by ReadyFrom; several goroutines do it where there is much to copy.
func (r *Reducer) writeGradients(s *step) error {
	bytes := int64(0)
	for _, back := range s.copyBack {
		if back != nil {
			bytes += back.Bytes()
		}
	}
	if bytes == 0 {
		return nil
	}
	workers := 1
	if bytes >= manyBytes {
		workers = min(runtime.GOMAXPROCS(0), len(r.buckets))
	}
	errs := make([]error, len(r.buckets))
	var next atomic.Int64
	work := func() {
		for i := int(next.Add(1)) - 1; i < len(errs); i = int(next.Add(1)) - 1 {
			errs[i] = r.writeGradientsOf(s, i)
		}
	}
	var others sync.WaitGroup
	for range workers - 1 {
		others.Go(work)
	}
	work()
	others.Wait()
	return errors.Join(errs...)
}

func (r *Reducer) writeGradientsOf(s *step, bucket int) error {
	defer r.trace.copied(time.Now(), bucket)
	b := r.buckets[bucket]
	for at, i := range b.params {
		back := s.copyBack[i]
		if back == nil || s.usedSum != nil && s.usedSum[i] == 0 {
			continue
		}
		if err := r.memory.Copy(back, b.views[at]); err != nil {
			return r.stepError(bucket, err)
		}
	}
	return nil
}
