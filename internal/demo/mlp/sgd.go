package mlp

// SGD is stochastic gradient descent with momentum, by torch.optim.SGD's rule with
// dampening 0 and nesterov off (torch/optim/sgd.py, _single_tensor_sgd), in float32:
//
//	g = g + WeightDecay*p
//	v = Momentum*v + g        (v = g on the first step)
//	p = p - LR*v
//
// Weight decay applies to biases too, as it does there. One goroutine at a time.
type SGD struct {
	LR          float64
	Momentum    float64 // 0 for none
	WeightDecay float64 // 0 for none

	// Velocity is v, one slice for each parameter, made by the first Step with
	// momentum; nil before. It belongs to the SGD and is exposed for checkpoints,
	// which Network.Checkpoint and Checkpoint.Restore take care of.
	Velocity [][]float32
}

// Step updates params' values in place from grads, one slice of the same length for
// each parameter, which it reads and leaves alone: grads may be views of buckets
// that the next step reuses. After the first call it allocates nothing. On an error
// (*ShapeError) nothing has changed.
func (s *SGD) Step(params []Param, grads [][]float32) error {
	if err := checkGrads(params, grads); err != nil {
		return err
	}
	if s.Momentum != 0 && s.Velocity == nil {
		// Momentum*0 + g is g: the first step needs no case of its own.
		s.Velocity = make([][]float32, len(params))
		for i, p := range params {
			s.Velocity[i] = make([]float32, len(p.Value))
		}
	}
	if s.Velocity != nil {
		if err := checkGrads(params, s.Velocity); err != nil {
			return err
		}
	}
	lr, momentum, decay := float32(s.LR), float32(s.Momentum), float32(s.WeightDecay)
	for i, p := range params {
		for j, g := range grads[i] {
			if decay != 0 {
				g += decay * p.Value[j]
			}
			if momentum != 0 {
				g += momentum * s.Velocity[i][j]
				s.Velocity[i][j] = g
			}
			p.Value[j] -= lr * g
		}
	}
	return nil
}
