package spagoddp

import (
	"fmt"

	"github.com/nlpodyssey/spago/ag"
	"github.com/nlpodyssey/spago/mat"
	"github.com/nlpodyssey/spago/nn"
	"github.com/nlpodyssey/spago/nn/embedding"
)

// countGradients returns how many gradients each parameter will get when spago goes back from the
// losses: one for each time that it is an operand. An operator that gives fewer than that only
// makes the parameter ready later, at the end of Backward.
func (s *Sync) countGradients(losses []mat.Tensor) ([]int, error) {
	counts := make([]int, len(s.params))
	visited := map[*ag.Operator]bool{}
	open := append([]mat.Tensor(nil), losses...)
	for len(open) > 0 {
		t := open[len(open)-1]
		open = open[:len(open)-1]
		if op, ok := t.(*ag.Operator); ok {
			if !visited[op] && op.RequiresGrad() {
				visited[op] = true
				open = append(open, op.Operands()...)
			}
			continue
		}
		// A leaf's value is the matrix in the nn.Param, whatever is around that.
		if i, ok := s.byValue[t.Value()]; ok {
			counts[i]++
			continue
		}
		switch t.(type) {
		case *nn.Param, *embedding.Embedding:
			if t.RequiresGrad() {
				return nil, fmt.Errorf("spagoddp: the loss depends on a parameter of shape %v that was not in the model in Wrap, or was replaced since: Unwrap, and Wrap again", t.Shape())
			}
		}
	}
	return counts, nil
}
