package digits

import (
	"fmt"
	"iter"
)

// batchStream plus the epoch is the PCG stream of Batches; see the package comment.
const batchStream = 0x6261746368 << 24

// Batch is one rank's part of one global batch.
type Batch struct {
	X []float32 // float32, shape [len(Y), Features], row-major
	Y []uint8   // shape [globalBatch/world]
}

// Batches is one rank's view of one epoch. Make it with Dataset.Batches. It is for
// one goroutine at a time, because its iterations share one pair of buffers.
type Batches struct {
	data  Dataset
	order []int // the epoch's global permutation, the same on every rank
	batch int   // globalBatch
	local int   // globalBatch / world
	rank  int
}

// Batches returns the steps of one epoch for one rank.
//
// All ranks shuffle the digits alike (by seed and epoch) and cut the permutation
// into global batches of globalBatch digits; of global batch s, rank r takes the
// r-th of world equal, contiguous slices. So in each step the ranks' batches are
// disjoint and their union is the batch that one rank alone would see: with a mean
// over ranks, world does not change what is trained.
//
// Drop-last: the Len() mod globalBatch digits at the permutation's end are left out
// of this epoch, so that all ranks take the same number of steps with the same
// number of digits. Another epoch shuffles anew and leaves out others.
//
// globalBatch must be a positive multiple of world, and at most d.Len().
func (d Dataset) Batches(seed uint64, epoch, globalBatch, rank, world int) (*Batches, error) {
	switch {
	case world < 1:
		return nil, fmt.Errorf("digits: world size %d is below 1", world)
	case rank < 0 || rank >= world:
		return nil, fmt.Errorf("digits: rank %d is not in 0..%d", rank, world-1)
	case epoch < 0:
		return nil, fmt.Errorf("digits: epoch %d is negative", epoch)
	case globalBatch < 1 || globalBatch%world != 0:
		return nil, fmt.Errorf("digits: global batch %d is not a positive multiple of the world size %d", globalBatch, world)
	case globalBatch > d.Len():
		return nil, fmt.Errorf("digits: global batch %d is more than the %d digits there are", globalBatch, d.Len())
	}
	return &Batches{
		data:  d,
		order: permutation(d.Len(), seed, batchStream+uint64(epoch)),
		batch: globalBatch,
		local: globalBatch / world,
		rank:  rank,
	}, nil
}

// Len returns the number of steps, the same on every rank.
func (b *Batches) Len() int { return len(b.order) / b.batch }

// LocalBatch returns the number of digits in each of this rank's batches.
func (b *Batches) LocalBatch() int { return b.local }

// Indices returns the rows of the Dataset that step's batch is made of: a view
// that the caller must not change. It panics unless 0 <= step < Len().
func (b *Batches) Indices(step int) []int {
	if step < 0 || step >= b.Len() {
		panic(fmt.Sprintf("digits: step %d is not in 0..%d", step, b.Len()-1))
	}
	from := step*b.batch + b.rank*b.local
	return b.order[from : from+b.local : from+b.local]
}

// All iterates over the steps. The Batch's slices belong to the iteration and are
// overwritten by its next step: use them before, or copy them.
func (b *Batches) All() iter.Seq2[int, Batch] {
	return func(yield func(int, Batch) bool) {
		batch := Batch{X: make([]float32, b.local*Features), Y: make([]uint8, b.local)}
		for step := range b.Len() {
			b.data.gather(b.Indices(step), batch.X, batch.Y)
			if !yield(step, batch) {
				return
			}
		}
	}
}
