package mlp

// SGD is stochastic gradient descent with momentum, by torch.optim.SGD's rule with dampening 0 and
// nesterov off (torch/optim/sgd.py, _single_tensor_sgd), in float32:
//
//	v = Momentum*v + g        (v = g in the first step)
//	p = p - LR*v
type SGD struct {
	LR       float64
	Momentum float64 // 0 for none

	// Velocity is v, one slice for each parameter, made by the first Step with momentum; nil
	// before.
	Velocity [][]float32
}

// Step updates the parameters' values in place from grads, one slice of the same length for each.
func (s *SGD) Step(params []Param, grads [][]float32) {
	if s.Momentum != 0 && s.Velocity == nil {
		// Momentum*0 + g is g: the first step needs no case of its own.
		for _, p := range params {
			s.Velocity = append(s.Velocity, make([]float32, len(p.Value)))
		}
	}
	lr, momentum := float32(s.LR), float32(s.Momentum)
	for i, p := range params {
		for j, g := range grads[i] {
			if momentum != 0 {
				g += momentum * s.Velocity[i][j]
				s.Velocity[i][j] = g
			}
			p.Value[j] -= lr * g
		}
	}
}
