package check

import (
	"fmt"

	"pyhook/c10d"
	"pyhook/tensor"
)

// checkModel is the parameters of a phase, and what their gradients are made in.
// Every phase has its own: hooks may change weights, and hang things on the
// parameters.
type checkModel struct {
	params  []*c10d.Parameter // as a model has them: the last one is ready first
	buckets []*plannedBucket
}

// plannedBucket is a bucket of the plan.
type plannedBucket struct {
	params  []int   // indices, in their order in the bucket
	offsets []int64 // of each, in elements
	wide    *tensor.Tensor
	values  []float64 // wide's memory
	weights *tensor.Tensor
}

func newCheckModel(p *checkPlan) (*checkModel, error) {
	dtype, err := tensor.ParseDType(p.DType)
	if err != nil {
		return nil, err
	}
	m := &checkModel{}
	total := 0
	for _, shapes := range p.Buckets {
		total += len(shapes)
	}
	m.params = make([]*c10d.Parameter, total)
	next := total
	for index, shapes := range p.Buckets {
		b := &plannedBucket{}
		m.buckets = append(m.buckets, b)
		elements := elementsOf(shapes)
		if b.wide, err = tensor.New(tensor.Float64, elements); err != nil {
			return nil, err
		}
		if b.values, err = tensor.Slice[float64](b.wide); err != nil {
			return nil, err
		}
		// Weights are the same on all ranks, as a model's are.
		if b.weights, err = tensor.New(dtype, elements); err != nil {
			return nil, err
		}
		fillGradients(b.values, p.Seed, -1, index, -1)
		if err := tensor.Copy(b.weights, b.wide); err != nil {
			return nil, err
		}
		offset := int64(0)
		for i, shape := range shapes {
			data, err := b.weights.View(offset, shape, nil)
			if err != nil {
				return nil, err
			}
			next--
			m.params[next] = &c10d.Parameter{Name: fmt.Sprintf("bucket%d.parameter%d", index, i), Shape: shape, DType: dtype, Data: data}
			b.params, b.offsets = append(b.params, next), append(b.offsets, offset)
			offset += elementsOf([][]int64{shape})
		}
	}
	return m, nil
}

// layout is the plan's buckets, for ddp.Options.
func (m *checkModel) layout() [][]int {
	layout := make([][]int, len(m.buckets))
	for i, b := range m.buckets {
		layout[i] = b.params
	}
	return layout
}

// length is how many elements parameter i has.
func (m *checkModel) length(i int) int64 { return elementsOf([][]int64{m.params[i].Shape}) }

func (m *checkModel) close() {
	for _, p := range m.params {
		p.Close()
		p.Data.Close()
	}
	for _, b := range m.buckets {
		b.wide.Close()
		b.weights.Close()
	}
}
