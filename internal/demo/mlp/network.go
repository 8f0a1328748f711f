package mlp

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
)

// initStream is the PCG stream of the initial weights: "init" in ASCII.
const initStream = 0x696e6974

// Param is one learnable tensor.
type Param struct {
	Name  string  // "layerK.weight" or "layerK.bias", K from 1
	Shape []int64 // [out, in] for a weight and [out] for a bias, as in PyTorch's nn.Linear
	// Value is float32, row-major: the network's own memory, at one address for the network's life.
	// An optimiser writes it in place.
	Value []float32
}

// Network is a fully connected network with ReLU between layers. It is for one goroutine at a time:
// even Evaluate uses its scratch memory.
type Network struct {
	sizes  []int
	params []Param
	scratch
}

// New makes a network with sizes[0] inputs, len(sizes)-2 hidden layers and as many classes as the
// last size says. Sizes are at least 1. Weights are He (Kaiming) uniform, in +-sqrt(6/in), drawn in
// forward order from rand.NewPCG(seed, 0x696e6974), so equal seeds give equal bits on every
// machine; biases are zero.
func New(sizes []int, seed uint64) *Network {
	n := &Network{sizes: slices.Clone(sizes)}
	rng := rand.New(rand.NewPCG(seed, initStream))
	for l := 1; l < len(sizes); l++ {
		in, out := sizes[l-1], sizes[l]
		weight, limit := make([]float32, out*in), math.Sqrt(6/float64(in))
		for i := range weight {
			weight[i] = float32(limit * (2*rng.Float64() - 1))
		}
		n.params = append(n.params,
			Param{fmt.Sprintf("layer%d.weight", l), []int64{int64(out), int64(in)}, weight},
			Param{fmt.Sprintf("layer%d.bias", l), []int64{int64(out)}, make([]float32, out)})
	}
	return n
}

func (n *Network) layers() int { return len(n.sizes) - 1 }

// Params returns the parameters in forward order: layer1.weight, layer1.bias, layer2.weight, ...
// They are the network's own.
func (n *Network) Params() []Param { return n.params }

// Checksum returns the SHA-256 of all parameters' values in forward order, as little-endian
// float32: equal on two ranks if and only if they agree bit for bit.
func (n *Network) Checksum() [sha256.Size]byte {
	h := sha256.New()
	for _, p := range n.params {
		_ = binary.Write(h, binary.LittleEndian, p.Value) // a hash's Write returns no error
	}
	return [sha256.Size]byte(h.Sum(nil))
}
