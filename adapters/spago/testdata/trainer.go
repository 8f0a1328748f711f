// A stock spago trainer: it learns the parities of 3 bits.
package main

import (
	"fmt"
	"log"

	"github.com/nlpodyssey/spago/ag"
	"github.com/nlpodyssey/spago/losses"
	"github.com/nlpodyssey/spago/mat"
	"github.com/nlpodyssey/spago/nn"
	"github.com/nlpodyssey/spago/nn/linear"
	"github.com/nlpodyssey/spago/optimizers"
	"github.com/nlpodyssey/spago/optimizers/adam"
)

type network struct {
	nn.Module
	Hidden, Out *linear.Model
}

func main() {
	model := &network{Hidden: linear.New[float32](3, 16), Out: linear.New[float32](16, 1)}
	start(model)
	strategy := adam.New(adam.NewConfig(0.01, 0.9, 0.999, 1e-8))
	optimizer := optimizers.New(nn.Parameters(model), strategy)

	var mean float64
	for range 60 {
		batch, sum := []mat.Tensor{}, 0.0
		for number := range 8 {
			loss := model.loss(number)
			batch, sum = append(batch, loss), sum+loss.Value().Item().F64()
		}
		mean = sum / 8
		check(ag.Backward(batch...))
		check(optimizer.Optimize())
	}
	fmt.Printf("loss %.6f\n", mean)
}

// loss of a number of 3 bits, of -1 and 1 each, whose product is to be learned.
func (m *network) loss(number int) mat.Tensor {
	bits, product := make([]float32, 3), float32(1)
	for k := range bits {
		bits[k] = float32(number>>k&1*2 - 1)
		product *= bits[k]
	}
	hidden := ag.Tanh(m.Hidden.Forward(mat.NewDense[float32](mat.WithBacking(bits)))[0])
	return losses.MSE(m.Out.Forward(hidden)[0], mat.Scalar(product), true)
}

// start gives the parameters some values between -1 and 1.
func start(m *network) {
	nn.ForEachParam(m, func(p *nn.Param) {
		values := mat.Data[float32](p.Value())
		for k := range values {
			values[k] = float32((k*37+11)%101-50) / 50
		}
	})
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
