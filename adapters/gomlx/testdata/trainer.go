// A stock GoMLX trainer: it learns the parities of 3 bits.
package main

import (
	"fmt"
	"log"

	"github.com/gomlx/gomlx/backends/simplego"
	"github.com/gomlx/gomlx/pkg/core/dtypes"
	. "github.com/gomlx/gomlx/pkg/core/graph"
	"github.com/gomlx/gomlx/pkg/core/shapes"
	"github.com/gomlx/gomlx/pkg/core/tensors"
	mlctx "github.com/gomlx/gomlx/pkg/ml/context"
	"github.com/gomlx/gomlx/pkg/ml/train"
	"github.com/gomlx/gomlx/pkg/ml/train/losses"
	"github.com/gomlx/gomlx/pkg/ml/train/optimizers"
)

func main() {
	backend := must(simplego.New("ops_sequential"))
	root := mlctx.New()
	root.SetParam(mlctx.ParamInitialSeed, int64(42))

	optimizer := optimizers.Adam().LearningRate(0.05).Done()
	trainer := train.NewTrainer(backend, root, model, losses.MeanSquaredError, optimizer, nil, nil)
	loop := train.NewLoop(trainer)
	metrics := must(loop.RunSteps(parities{}, 100))

	weights := root.GetVariableByScopeAndName("/out", "weights").MustValue()
	fmt.Printf("loss %v, weights %v\n", metrics[0].Value(), tensors.MustCopyFlatData[float32](weights))
}

func model(root *mlctx.Context, _ any, inputs []*Node) []*Node {
	hidden := Tanh(linear(root.In("hidden"), inputs[0], 16))
	return []*Node{linear(root.In("out"), hidden, 1)}
}

func linear(scope *mlctx.Context, x *Node, columns int) *Node {
	weights := scope.VariableWithShape("weights", shapes.Make(dtypes.Float32, x.Shape().Dim(-1), columns))
	return Dot(x, weights.ValueGraph(x.Graph()))
}

// parities is a dataset without an end: all numbers of 3 bits of -1 and 1, and their products.
type parities struct{}

func (parities) Name() string { return "parities" }
func (parities) Reset()       {}

func (parities) Yield() (spec any, inputs, labels []*tensors.Tensor, err error) {
	var bits, products []float32
	for i := range 8 {
		product := float32(1)
		for k := range 3 {
			bit := float32(i>>k&1*2 - 1)
			bits, product = append(bits, bit), product*bit
		}
		products = append(products, product)
	}
	x, y := tensors.FromFlatDataAndDimensions(bits, 8, 3), tensors.FromFlatDataAndDimensions(products, 8, 1)
	return nil, []*tensors.Tensor{x}, []*tensors.Tensor{y}, nil
}

func must[T any](v T, err error) T {
	check(err)
	return v
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
