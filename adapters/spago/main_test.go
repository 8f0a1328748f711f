package spagoddp_test

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/nlpodyssey/spago/ag"
	"github.com/nlpodyssey/spago/losses"
	"github.com/nlpodyssey/spago/mat"
	"github.com/nlpodyssey/spago/mat/float"
	"github.com/nlpodyssey/spago/nn"
	"github.com/nlpodyssey/spago/nn/linear"
	"github.com/nlpodyssey/spago/optimizers"
	"github.com/stretchr/testify/require"

	"pyhook/tests/ranks"
	"pyhook/tests/stock"
)

func TestMain(m *testing.M) {
	ranks.Main(m, map[string]ranks.Func{"hooks": stock.Ranks(trainNoting), "raises": stock.HookRaises(newModel)})
}

func allWell(t *testing.T, errs []error) {
	t.Helper()
	require.NoError(t, errors.Join(errs...))
}

// net is a small network, of which Middle is used twice, or once. So a parameter gets two gradients
// from nothing or one beside those of former samples: no more, as spago adds three in an order of
// its goroutines'.
type net struct {
	nn.Module
	once            bool
	In, Middle, Out *linear.Model
	Scale           *nn.Param // that needs no gradient
}

const classes = 3

// newNet has values of a seed.
func newNet[T float.DType](seed uint64) *net {
	m := &net{In: linear.New[T](4, 6), Middle: linear.New[T](6, 6), Out: linear.New[T](6, classes), Scale: nn.NewParam(mat.Scalar(T(1))).WithGrad(false)}
	random := rand.New(rand.NewPCG(seed, 1))
	nn.ForEachParam(m, func(p *nn.Param) {
		for k := range mat.Data[T](p.Matrix) {
			mat.Data[T](p.Matrix)[k] = T(random.NormFloat64()) / 2
		}
	})
	mat.Data[T](m.Scale.Matrix)[0] = T(seed)
	return m
}

func (m *net) forward(x mat.Tensor) mat.Tensor {
	h := ag.Tanh(m.In.Forward(x)[0])
	h = ag.Tanh(m.Middle.Forward(h)[0])
	if !m.once {
		h = ag.Tanh(m.Middle.Forward(h)[0])
	}
	return m.Out.Forward(h)[0]
}

// loss of a sample that a seed gives. (Cross entropy uses its argument three times: see net.)
func loss[T float.DType](m *net, seed uint64) mat.Tensor {
	random := rand.New(rand.NewPCG(seed, 2))
	x := make([]T, 4)
	for k := range x {
		x[k] = T(random.NormFloat64())
	}
	target := make([]T, classes)
	target[random.IntN(classes)] = 1
	return losses.MSE(m.forward(mat.NewDense[T](mat.WithBacking(x))), mat.NewDense[T](mat.WithBacking(target)), false)
}

// values are copies of the values of the parameters that need a gradient.
func values[T float.DType](m nn.Model) (list [][]T) {
	nn.ForEachParam(m, func(p *nn.Param) {
		if p.RequiresGrad() {
			list = append(list, slices.Clone(mat.Data[T](p.Value())))
		}
	})
	return list
}

// gradients are copies of the gradients; nil where there is none.
func gradients[T float.DType](m nn.Model) (list [][]T) {
	nn.ForEachParam(m, func(p *nn.Param) {
		switch {
		case !p.RequiresGrad():
		case p.HasGrad():
			list = append(list, slices.Clone(mat.Data[T](p.Grad())))
		default:
			list = append(list, nil)
		}
	})
	return list
}

// setValues gives a model other values.
func setValues[T float.DType](m nn.Model, to [][]T) {
	i := 0
	nn.ForEachParam(m, func(p *nn.Param) {
		if p.RequiresGrad() {
			copy(mat.Data[T](p.Value()), to[i])
			i++
		}
	})
}

// optimize is what optimizers.Optimizer.Optimize would do if it waited for its goroutines.
func optimize(m nn.Model, strategy optimizers.OptimizationStrategy) (err error) {
	nn.ForEachParam(m, func(p *nn.Param) {
		if p.HasGrad() {
			err = errors.Join(err, strategy.OptimizeParams(p))
		}
	})
	return err
}
