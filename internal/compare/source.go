package compare

import (
	"fmt"

	"pyhook/ddp"
	"pyhook/tensor"
)

// Bucket is the layout of a bucket.
type Bucket struct {
	Parameters []int   // indices in the Source's Parameters, in their order in the bucket
	Offsets    []int64 // of each, in elements
	Elements   int64
	DType      tensor.DType
}

// A Source gives the gradients of each step, bucket and rank. Every rank can ask for every rank's:
// so the exact mean needs no collective. It is for one goroutine.
type Source interface {
	// Parameters are the model's.
	Parameters() []Parameter
	// Buckets are of every step, in the order in which they are reduced.
	Buckets() []Bucket
	// Fill writes a rank's gradients of a bucket to a flat tensor of its dtype and length. Steps
	// come in order.
	Fill(step, bucket, rank int, into *tensor.Tensor) error
	// Describe says where the gradients come from, in a sentence.
	Describe() string
}

// layout puts the parameters into buckets as DistributedDataParallel does from its second step on:
// from the last parameter to the first, the first bucket of 1 MiB and the others of capMB MiB. A
// bucket may exceed its limit by one parameter.
func layout(params []Parameter, capMB float64) []Bucket {
	items := make([]ddp.Item, len(params))
	for i := range params {
		items[i] = ddp.Item{Len: params[len(params)-1-i].elements(), DType: tensor.Float32}
	}
	limit := int64(capMB * (1 << 20))
	assigned, _ := ddp.AssignBuckets(items, []int64{min(1<<20, limit), limit})
	buckets := make([]Bucket, len(assigned))
	for b, indices := range assigned {
		buckets[b].DType = tensor.Float32
		for _, k := range indices {
			i := len(params) - 1 - k
			buckets[b].Parameters = append(buckets[b].Parameters, i)
			buckets[b].Offsets = append(buckets[b].Offsets, buckets[b].Elements)
			buckets[b].Elements += params[i].elements()
		}
	}
	return buckets
}

// SourceConfig names a Source. It travels to the ranks as JSON.
type SourceConfig struct {
	Trace     string // the folder of a recording; "": Model
	Model     string // see LoadModel
	Gradients string // a distribution's name, for models but Digits
	CapMB     float64
	Seed      uint64
	Ranks     int
}

// NewSource opens a Source.
func NewSource(c SourceConfig) (Source, error) {
	if c.Trace != "" {
		r, err := OpenRecording(c.Trace)
		if err != nil {
			return nil, err
		}
		if r.Ranks() < c.Ranks {
			return nil, r.fail("it was recorded on %d ranks, and these are %d", r.Ranks(), c.Ranks)
		}
		return r, nil
	}
	if c.CapMB <= 0 || c.CapMB > 1<<20 {
		return nil, fmt.Errorf("buckets of %g MiB: must be above 0, and at most 2^20", c.CapMB)
	}
	if c.Model == Digits {
		return newDigitsSource(c)
	}
	m, err := LoadModel(c.Model)
	if err != nil {
		return nil, err
	}
	return newDrawn(m, c)
}
