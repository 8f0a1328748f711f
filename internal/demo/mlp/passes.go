package mlp

import (
	"math"

	"gonum.org/v1/gonum/blas"
	"gonum.org/v1/gonum/blas/blas32"
)

// evalRows is the number of rows that Evaluate takes through the network at once.
const evalRows = 64

// scratch is memory that passes reuse. It grows to the largest batch seen.
type scratch struct {
	rows   int         // the largest batch that acts and deltas can hold
	wt     [][]float32 // per layer, the weight transposed: [in, out]
	acts   [][]float32 // per layer, its output: [rows, out]
	deltas [][]float32 // per layer, the loss's gradient by its output before ReLU: [rows, out]
}

// grow makes scratch large enough for rows. Only a first or a larger batch allocates.
func (n *Network) grow(rows int) {
	if rows <= n.rows {
		return
	}
	n.rows = rows
	n.wt = make([][]float32, n.layers())
	n.acts = make([][]float32, n.layers())
	n.deltas = make([][]float32, n.layers())
	for l := range n.layers() {
		in, out := n.sizes[l], n.sizes[l+1]
		n.wt[l] = make([]float32, in*out)
		n.acts[l] = make([]float32, rows*out)
		n.deltas[l] = make([]float32, rows*out)
	}
}

// matrix views data as a dense row-major [rows, cols].
func matrix(rows, cols int, data []float32) blas32.General {
	return blas32.General{Rows: rows, Cols: cols, Stride: cols, Data: data[:rows*cols]}
}

// Backward runs a local batch forward and backward, and returns the batch's mean cross-entropy. x
// is float32 [len(y), in], row-major; y holds labels below the number of classes. The batch has at
// least one row.
//
// It overwrites grads[i], in Params' order and lengths, with the gradient of that loss by parameter
// i. The slices are the caller's and may be views of anything that is 4-byte aligned, such as a
// bucket's memory.
//
// ready(i), if not nil, is called in this goroutine as soon as grads[i] is final and will not be
// touched again: the last layer's bias, its weight, the layer before. It may start communication on
// grads[i] but must not change parameters.
//
// After the first call with a batch this large, Backward allocates nothing, as long as each layer's
// outputs and gradients are below 4 blocks of 64x64, from where on gonum starts goroutines.
func (n *Network) Backward(x []float32, y []uint8, grads [][]float32, ready func(i int)) (loss float64) {
	if ready == nil {
		ready = func(int) {}
	}
	rows := len(y)
	n.grow(rows)
	n.transposeWeights()
	n.forward(x, rows)
	loss = n.lossGradient(y) / float64(rows)
	for l := n.layers() - 1; l >= 0; l-- {
		in, out := n.sizes[l], n.sizes[l+1]
		input := x
		if l > 0 {
			input = n.acts[l-1]
		}
		delta := matrix(rows, out, n.deltas[l])

		sumRows(grads[2*l+1], delta.Data)
		ready(2*l + 1)
		// beta 0 sets the output to zero first, rather than scaling what it held.
		blas32.Gemm(blas.Trans, blas.NoTrans, 1, delta, matrix(rows, in, input), 0, matrix(out, in, grads[2*l]))
		ready(2 * l)
		if l > 0 {
			below := matrix(rows, in, n.deltas[l-1])
			blas32.Gemm(blas.NoTrans, blas.NoTrans, 1, delta, matrix(out, in, n.params[2*l].Value), 0, below)
			maskReLU(below.Data, input)
		}
	}
	return loss
}

// Evaluate returns the share of x's rows whose largest logit is their label's, and their mean
// cross-entropy. Arguments are Backward's.
func (n *Network) Evaluate(x []float32, y []uint8) (accuracy, loss float64) {
	n.grow(min(evalRows, len(y)))
	n.transposeWeights()
	in, classes := n.sizes[0], n.sizes[n.layers()]
	correct := 0
	for from := 0; from < len(y); from += evalRows {
		rows := min(evalRows, len(y)-from)
		logits := n.forward(x[from*in:(from+rows)*in], rows)
		for i, label := range y[from : from+rows] {
			row := logits[i*classes : (i+1)*classes]
			if argMax(row) == int(label) {
				correct++
			}
			loss += logSumExp(row) - float64(row[label])
		}
	}
	count := float64(len(y))
	return float64(correct) / count, loss / count
}

// forward fills acts and returns the logits [rows, classes]. It needs wt.
func (n *Network) forward(x []float32, rows int) []float32 {
	input := x
	for l := range n.layers() {
		in, out := n.sizes[l], n.sizes[l+1]
		act := n.acts[l][:rows*out]
		bias := n.params[2*l+1].Value
		for r := range rows {
			copy(act[r*out:(r+1)*out], bias)
		}
		blas32.Gemm(blas.NoTrans, blas.NoTrans, 1, matrix(rows, in, input), matrix(in, out, n.wt[l]), 1, matrix(rows, out, act))
		if l < n.layers()-1 {
			// A NaN is kept, as PyTorch's ReLU keeps it.
			for i, v := range act {
				if v < 0 {
					act[i] = 0
				}
			}
		}
		input = act
	}
	return input
}

// transposeWeights fills wt; the package comment has the reason.
func (n *Network) transposeWeights() {
	for l, wt := range n.wt {
		in, out := n.sizes[l], n.sizes[l+1]
		weight := n.params[2*l].Value
		for o := range out {
			for i, w := range weight[o*in : (o+1)*in] {
				wt[i*out+o] = w
			}
		}
	}
}

// lossGradient sets the last layer's delta to (softmax - one-hot) / rows and returns
// the sum of the rows' losses. Softmax is taken in float64, less the row's largest
// logit, so that no finite logit overflows.
func (n *Network) lossGradient(y []uint8) (sum float64) {
	last := n.layers() - 1
	classes := n.sizes[last+1]
	scale := 1 / float64(len(y))
	for r, label := range y {
		logits := n.acts[last][r*classes : (r+1)*classes]
		delta := n.deltas[last][r*classes : (r+1)*classes]
		lse := logSumExp(logits)
		for c, v := range logits {
			p := math.Exp(float64(v) - lse)
			if c == int(label) {
				p--
			}
			delta[c] = float32(p * scale)
		}
		sum += lse - float64(logits[label])
	}
	return sum
}

// logSumExp returns log(sum(exp(row))) without overflow.
func logSumExp(row []float32) float64 {
	top := float64(row[argMax(row)])
	var sum float64
	for _, v := range row {
		sum += math.Exp(float64(v) - top)
	}
	return top + math.Log(sum)
}

// argMax returns the index of the first largest value, 0 if the first is NaN.
func argMax(row []float32) int {
	best := 0
	for i, v := range row {
		if v > row[best] {
			best = i
		}
	}
	return best
}

// sumRows overwrites sum [cols] with the sum of m's rows, in row order.
func sumRows(sum, m []float32) {
	clear(sum)
	for cols := len(sum); len(m) > 0; m = m[cols:] {
		for c, v := range m[:cols] {
			sum[c] += v
		}
	}
}

// maskReLU zeroes delta where ReLU's output act was zero.
func maskReLU(delta, act []float32) {
	for i := range delta {
		if act[i] == 0 {
			delta[i] = 0
		}
	}
}
