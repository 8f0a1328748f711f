package gorgoniaddp_test

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"gorgonia.org/gorgonia"
	"gorgonia.org/tensor"

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

type element interface{ float32 | float64 }

func dtype[T element]() tensor.Dtype {
	if _, ok := any(*new(T)).(float32); ok {
		return tensor.Float32
	}
	return tensor.Float64
}

const (
	batch, inputs, hidden, outputs = 5, 4, 6, 3
)

// net is a small network with its graph and machine.
type net[T element] struct {
	x, y       *gorgonia.Node
	learnables gorgonia.Nodes
	vm         gorgonia.VM
}

// newNet has values of a seed. Without dual the machine adds no gradients up.
func newNet[T element](seed uint64, dual bool) (*net[T], error) {
	g, d := gorgonia.NewGraph(), dtype[T]()
	random := rand.New(rand.NewPCG(seed, 1))
	learnable := func(name string, shape ...int) *gorgonia.Node {
		backing := make([]T, tensor.Shape(shape).TotalSize())
		for k := range backing {
			backing[k] = T(random.NormFloat64()) / 2
		}
		value := tensor.New(tensor.WithShape(shape...), tensor.WithBacking(backing))
		return gorgonia.NewTensor(g, d, len(shape), gorgonia.WithShape(shape...), gorgonia.WithName(name), gorgonia.WithValue(value))
	}
	n := &net[T]{
		x: gorgonia.NewMatrix(g, d, gorgonia.WithShape(batch, inputs), gorgonia.WithName("x")),
		y: gorgonia.NewMatrix(g, d, gorgonia.WithShape(batch, outputs), gorgonia.WithName("y")),
	}
	w1, w2, b, scale := learnable("w1", inputs, hidden), learnable("w2", hidden, outputs), learnable("b", outputs), learnable("scale", 1)
	n.learnables = gorgonia.Nodes{w1, w2, b, scale}
	var err error
	do := func(made *gorgonia.Node, failed error) *gorgonia.Node {
		err = errors.Join(err, failed)
		return made
	}
	h := do(gorgonia.Tanh(do(gorgonia.Mul(n.x, w1))))
	out := do(gorgonia.BroadcastAdd(do(gorgonia.Mul(h, w2)), b, nil, []byte{0}))
	squares := do(gorgonia.Square(do(gorgonia.Sub(out, n.y))))
	cost := do(gorgonia.Mean(squares))
	cost = do(gorgonia.Add(cost, do(gorgonia.Mean(do(gorgonia.Square(scale))))))
	if err != nil {
		return nil, err
	}
	if _, err := gorgonia.Grad(cost, n.learnables...); err != nil {
		return nil, err
	}
	var opts []gorgonia.VMOpt
	if dual {
		opts = append(opts, gorgonia.BindDualValues(n.learnables...))
	}
	n.vm = gorgonia.NewTapeMachine(g, opts...)
	return n, nil
}

// run runs the machine on a batch of a seed.
func (n *net[T]) run(seed uint64) error {
	random := rand.New(rand.NewPCG(seed, 2))
	fill := func(node *gorgonia.Node, rows, columns int) error {
		backing := make([]T, rows*columns)
		for k := range backing {
			backing[k] = T(random.NormFloat64())
		}
		return gorgonia.Let(node, tensor.New(tensor.WithShape(rows, columns), tensor.WithBacking(backing)))
	}
	if err := errors.Join(fill(n.x, batch, inputs), fill(n.y, batch, outputs)); err != nil {
		return err
	}
	n.vm.Reset()
	return n.vm.RunAll()
}

func backing[T element](v gorgonia.Value) []T { return v.(*tensor.Dense).Data().([]T) }

// values are copies.
func (n *net[T]) values() (list [][]T) {
	for _, l := range n.learnables {
		list = append(list, slices.Clone(backing[T](l.Value())))
	}
	return list
}

// gradients are the machine's own.
func (n *net[T]) gradients() (list [][]T, err error) {
	for _, l := range n.learnables {
		grad, err := l.Grad()
		if err != nil {
			return nil, err
		}
		list = append(list, backing[T](grad))
	}
	return list, nil
}

func sample(step, rank int) uint64 { return uint64(100 + 10*step + rank) }
