// Package mlp is the demo trainer's network: a fully connected ReLU classifier
// with softmax cross-entropy, momentum SGD and checkpoints, float32, in plain Go
// over gonum's blas32.
//
// It stands for any Go trainer that has gradients in memory of its own. What lives
// here is what such a trainer does alone; what must not is anything of ranks,
// buckets or hooks. The two meet in [Network.Backward], which writes each gradient
// where the caller says (a view of a communication bucket, say) and reports it
// ready at once, last layer first, as autograd does:
//
//	forward:   x -> layer1 -> ReLU -> ... -> layerN -> softmax, loss
//	backward:  layerN.bias, layerN.weight, ..., layer1.bias, layer1.weight
//	                ready(2N-1)  ready(2N-2)           ready(1)    ready(0)
//
// # Repeatability
//
// The same seed, data and steps give the same bits in each run of one program on
// one machine, wherever the slices lie and whatever GOMAXPROCS is.
//
// gonum's Sgemm (v0.17.0, blas/gonum/sgemm.go) splits the output into 64x64 blocks
// and gives each to one goroutine, which adds up along k in ascending order, as the
// serial path does; no element is written by two goroutines. That alone does not
// make its bits repeatable: the NoTrans x Trans case calls f32.DotUnitary, whose
// amd64 assembly handles elements up to a 16-byte boundary singly and then keeps
// four partial sums, so that its rounding depends on the *address* of the slice.
// The other cases use AxpyUnitary, where each element sees one multiply and one add
// per k, in order. This package therefore calls Sgemm with a plain B only
// (NoTrans x NoTrans, Trans x NoTrans), and transposes weights for the forward pass
// itself.
//
// Across CPU types the last bits may differ: math.Exp uses fused multiply-add where
// it finds one, and compilers for other architectures than amd64 may fuse too. The
// initial parameters are the same everywhere.
package mlp
