// A stock Gorgonia trainer: it learns the parities of 3 bits.
package main

import (
	"fmt"
	"log"

	"gorgonia.org/gorgonia"
	"gorgonia.org/tensor"
)

func main() {
	g := gorgonia.NewGraph()
	x := gorgonia.NewMatrix(g, tensor.Float32, gorgonia.WithShape(8, 3), gorgonia.WithName("x"))
	y := gorgonia.NewMatrix(g, tensor.Float32, gorgonia.WithShape(8, 1), gorgonia.WithName("y"))
	w0 := gorgonia.NewMatrix(g, tensor.Float32, gorgonia.WithShape(3, 16), gorgonia.WithName("w0"), gorgonia.WithValue(values(3, 16)))
	w1 := gorgonia.NewMatrix(g, tensor.Float32, gorgonia.WithShape(16, 1), gorgonia.WithName("w1"), gorgonia.WithValue(values(16, 1)))
	hidden := gorgonia.Must(gorgonia.Tanh(gorgonia.Must(gorgonia.Mul(x, w0))))
	miss := gorgonia.Must(gorgonia.Sub(gorgonia.Must(gorgonia.Mul(hidden, w1)), y))
	cost := gorgonia.Must(gorgonia.Mean(gorgonia.Must(gorgonia.Square(miss))))
	learnables := gorgonia.Nodes{w0, w1}
	must(gorgonia.Grad(cost, learnables...))
	vm := gorgonia.NewTapeMachine(g, gorgonia.BindDualValues(learnables...))
	solver := gorgonia.NewAdamSolver(gorgonia.WithLearnRate(0.01))

	bits, parities := data()
	for range 100 {
		check(gorgonia.Let(x, bits))
		check(gorgonia.Let(y, parities))
		check(vm.RunAll())
		check(solver.Step(gorgonia.NodesToValueGrads(learnables)))
		vm.Reset()
	}
	fmt.Printf("loss %v, w1 %v\n", cost.Value(), w1.Value().Data())
}

// values are some numbers between -1 and 1.
func values(shape ...int) tensor.Tensor {
	backing := make([]float32, tensor.Shape(shape).TotalSize())
	for k := range backing {
		backing[k] = float32((k*37+11)%101-50) / 50
	}
	return tensor.New(tensor.WithShape(shape...), tensor.WithBacking(backing))
}

// data is all numbers of 3 bits of -1 and 1, and their products.
func data() (bits, parities *tensor.Dense) {
	var in, out []float32
	for i := range 8 {
		product := float32(1)
		for k := range 3 {
			bit := float32(i>>k&1*2 - 1)
			in, product = append(in, bit), product*bit
		}
		out = append(out, product)
	}
	return tensor.New(tensor.WithShape(8, 3), tensor.WithBacking(in)), tensor.New(tensor.WithShape(8, 1), tensor.WithBacking(out))
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
