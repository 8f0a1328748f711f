package compare

import (
	"errors"
	"fmt"

	"pyhook/internal/demo/digits"
	"pyhook/internal/demo/mlp"
	"pyhook/tensor"
)

// Digits is the model that is trained while it is reduced: the demo's network on handwritten digits.
const Digits = "digits"

// digitsBatch is how many digits a step takes over all ranks: at least so many, a multiple of them.
const digitsBatch = 64

// digitsSizes is the demo's network with wider layers, so that its matrices are worth compressing.
var digitsSizes = []int{digits.Features, 256, 256, digits.Classes}

func digitsModel() *Model {
	m := &Model{Name: Digits}
	for _, p := range mlp.New(digitsSizes, 0).Params() {
		m.Parameters = append(m.Parameters, Parameter{Name: p.Name, Shape: p.Shape})
	}
	return m
}

// digitsSource trains the network with the exact mean of the ranks' gradients, whatever the hook
// gives: so every hook gets the same gradients, and they are those of a network in training.
type digitsSource struct {
	model   *Model
	buckets []Bucket
	ranks   int
	train   digits.Dataset
	network *mlp.Network
	sgd     *mlp.SGD
	seed    uint64
	step    int           // whose gradients grads are
	grads   [][][]float32 // by rank and parameter
}

func newDigitsSource(c SourceConfig) (*digitsSource, error) {
	all, err := digits.Load()
	if err != nil {
		return nil, err
	}
	if c.Ranks < 1 || c.Ranks > digitsBatch {
		return nil, fmt.Errorf("%d ranks: the digits are trained by 1 to %d ranks", c.Ranks, digitsBatch)
	}
	s := &digitsSource{model: digitsModel(), ranks: c.Ranks, seed: c.Seed, step: -1, sgd: &mlp.SGD{LR: 0.1, Momentum: 0.9}}
	s.train, _ = all.Split(c.Seed)
	s.network = mlp.New(digitsSizes, c.Seed)
	s.buckets = layout(s.model.Parameters, min(c.CapMB, 0.2)) // the network has 0.33 MiB
	for range c.Ranks {
		var grads [][]float32
		for _, p := range s.model.Parameters {
			grads = append(grads, make([]float32, p.elements()))
		}
		s.grads = append(s.grads, grads)
	}
	return s, nil
}

func (s *digitsSource) Parameters() []Parameter { return s.model.Parameters }
func (s *digitsSource) Buckets() []Bucket       { return s.buckets }
func (s *digitsSource) Describe() string {
	return fmt.Sprintf("gradients of a network of layers %v that trains on handwritten digits, by the exact mean, whatever the hook gives", digitsSizes)
}

func (s *digitsSource) Fill(step, bucket, rank int, into *tensor.Tensor) error {
	values, err := tensor.Slice[float32](into)
	if err != nil {
		return err
	}
	for s.step < step {
		if err := s.advance(); err != nil {
			return err
		}
	}
	if s.step != step {
		return errors.New("compare: steps of a training come in order")
	}
	b := s.buckets[bucket]
	for k, i := range b.Parameters {
		copy(values[b.Offsets[k]:], s.grads[rank][i])
	}
	return nil
}

// advance takes the optimiser's step with the exact mean, and makes all ranks' next gradients.
func (s *digitsSource) advance() error {
	if s.step >= 0 {
		mean := make([][]float32, len(s.model.Parameters))
		for i := range mean {
			mean[i] = make([]float32, len(s.grads[0][i]))
			for k := range mean[i] {
				sum := 0.0
				for _, rank := range s.grads {
					sum += float64(rank[i][k])
				}
				mean[i][k] = float32(sum / float64(s.ranks))
			}
		}
		s.sgd.Step(s.network.Params(), mean)
	}
	s.step++
	global := (digitsBatch + s.ranks - 1) / s.ranks * s.ranks
	perEpoch := s.train.Len() / global
	for rank := range s.ranks {
		batches, err := s.train.Batches(s.seed, s.step/perEpoch, global, rank, s.ranks)
		if err != nil {
			return err
		}
		batch := batches[s.step%perEpoch]
		s.network.Backward(batch.X, batch.Y, s.grads[rank], nil)
	}
	return nil
}
