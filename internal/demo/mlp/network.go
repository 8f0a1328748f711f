package mlp

import (
	"crypto/sha256"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
)

// initStream is the PCG stream of the initial weights: "init" in ASCII.
const initStream = 0x696e6974

// Param is one learnable tensor.
type Param struct {
	// Name is "layerK.weight" or "layerK.bias", K from 1.
	Name string
	// Shape is [out, in] for a weight and [out] for a bias, as in PyTorch's nn.Linear.
	Shape []int64
	// Value is float32, row-major, and is the network's own memory, at one address
	// for the network's life: an optimiser writes it in place.
	Value []float32
}

// Network is a fully connected network with ReLU between layers. It is for one
// goroutine at a time: even Evaluate uses its scratch memory. Different networks
// are independent.
type Network struct {
	sizes  []int
	params []Param
	scratch
}

// New makes a network with sizes[0] inputs, len(sizes)-2 hidden layers and
// sizes[len-1] classes (2 to 256). Weights are He (Kaiming) uniform, in
// +-sqrt(6/in), drawn in forward order from rand.NewPCG(seed, 0x696e6974), so equal
// seeds give equal bits on every machine; biases are zero.
//
// It panics on sizes that are no network: they are a programmer's, not a user's.
// CheckSizes tells beforehand.
func New(sizes []int, seed uint64) *Network {
	if err := CheckSizes(sizes); err != nil {
		panic(err)
	}
	n := &Network{sizes: slices.Clone(sizes), params: zeroParams(sizes)}
	rng := rand.New(rand.NewPCG(seed, initStream))
	for l := range n.layers() {
		limit := math.Sqrt(6 / float64(sizes[l]))
		weight := n.params[2*l].Value
		for i := range weight {
			weight[i] = float32(limit * (2*rng.Float64() - 1))
		}
	}
	return n
}

// zeroParams returns the parameters of a network with these sizes, all zero.
func zeroParams(sizes []int) (params []Param) {
	for l := 1; l < len(sizes); l++ {
		in, out := sizes[l-1], sizes[l]
		params = append(params,
			Param{fmt.Sprintf("layer%d.weight", l), []int64{int64(out), int64(in)}, make([]float32, out*in)},
			Param{fmt.Sprintf("layer%d.bias", l), []int64{int64(out)}, make([]float32, out)},
		)
	}
	return params
}

// maxParams bounds a network to 256 MiB of parameters, and with it the size of a
// checkpoint that Load reads.
const maxParams = 1 << 26

// CheckSizes says whether New accepts sizes.
func CheckSizes(sizes []int) error {
	if len(sizes) < 2 {
		return fmt.Errorf("mlp: a network needs at least an input and an output size, got %v", sizes)
	}
	total := int64(0)
	for l, size := range sizes {
		if size < 1 || size > maxParams {
			return fmt.Errorf("mlp: layer size %d in %v is not in 1..%d", size, sizes, maxParams)
		}
		if l == 0 {
			continue
		}
		// Both factors are at most about 2^26, so this does not overflow.
		if total += int64(size) * int64(sizes[l-1]+1); total > maxParams {
			return fmt.Errorf("mlp: layer sizes %v make more than %d parameters", sizes, maxParams)
		}
	}
	if classes := sizes[len(sizes)-1]; classes < 2 || classes > 256 {
		return fmt.Errorf("mlp: %d classes, want 2 to 256 (labels are uint8)", classes)
	}
	return nil
}

func (n *Network) layers() int { return len(n.sizes) - 1 }

// Sizes returns a copy of the layer sizes that New was given.
func (n *Network) Sizes() []int { return slices.Clone(n.sizes) }

// Params returns the parameters in forward order: layer1.weight, layer1.bias,
// layer2.weight, ... The slice is a copy; Shape and Value are the network's own.
func (n *Network) Params() []Param { return slices.Clone(n.params) }

// Checksum returns the SHA-256 of all parameters' values in forward order, as
// little-endian float32: equal on two ranks if and only if they agree bit for bit.
func (n *Network) Checksum() [sha256.Size]byte {
	h := sha256.New()
	for _, p := range n.params {
		// A hash's Write returns no error.
		_ = writeFloats(h, p.Value)
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// ShapeError says that an argument does not fit the network.
type ShapeError struct {
	What      string // for example "x" or "gradient of layer1.weight"
	Got, Want int    // numbers of elements
}

// Error implements error.
func (e *ShapeError) Error() string {
	return fmt.Sprintf("mlp: %s has %d elements, want %d", e.What, e.Got, e.Want)
}

// LabelError says that a label is no class of the network.
type LabelError struct {
	Row, Label, Classes int
}

// Error implements error.
func (e *LabelError) Error() string {
	return fmt.Sprintf("mlp: row %d has label %d, and there are %d classes", e.Row, e.Label, e.Classes)
}

// checkBatch checks x [len(y), in] and y.
func (n *Network) checkBatch(x []float32, y []uint8) error {
	if len(y) == 0 {
		return fmt.Errorf("mlp: the batch is empty")
	}
	if want := len(y) * n.sizes[0]; len(x) != want {
		return &ShapeError{"x", len(x), want}
	}
	classes := n.sizes[n.layers()]
	for row, label := range y {
		if int(label) >= classes {
			return &LabelError{row, int(label), classes}
		}
	}
	return nil
}

// checkGrads checks that there is one slice of the right length for each parameter.
func checkGrads(params []Param, grads [][]float32) error {
	if len(grads) != len(params) {
		return &ShapeError{"the list of gradients", len(grads), len(params)}
	}
	for i, p := range params {
		if len(grads[i]) != len(p.Value) {
			return &ShapeError{"the gradient of " + p.Name, len(grads[i]), len(p.Value)}
		}
	}
	return nil
}
