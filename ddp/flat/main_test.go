package flat_test

import (
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"pyhook/ddp/flat"
	"pyhook/tests/ranks"
	"pyhook/tests/stock"
)

func TestMain(m *testing.M) {
	ranks.Main(m, map[string]ranks.Func{"hooks": stock.Ranks(trainNoting)})
}

// allWell fails the test if a rank has an error.
func allWell(t *testing.T, errs []error) {
	t.Helper()
	require.NoError(t, errors.Join(errs...))
}

// model is a rank's slices.
type model[T flat.Element] struct {
	values, grads [][]T
}

var shapes = [][]int64{{3, 4}, {7}, {2, 3, 2}, {1}}

// newModel has values of 0.
func newModel[T flat.Element]() *model[T] {
	m := &model[T]{}
	for _, shape := range shapes {
		n := int64(1)
		for _, size := range shape {
			n *= size
		}
		m.values, m.grads = append(m.values, make([]T, n)), append(m.grads, make([]T, n))
	}
	return m
}

func (m *model[T]) params() []flat.Param[T] {
	list := make([]flat.Param[T], len(shapes))
	for i := range list {
		list[i] = flat.Param[T]{Name: string(rune('a' + i)), Shape: shapes[i], Value: &m.values[i], Grad: &m.grads[i]}
	}
	return list
}

// eighths fills slices with numbers of few bits, whose sums and means over 4 ranks are exact in any
// order, in float16 too.
func eighths[T float32 | float64](slices [][]T, seed uint64) {
	random := rand.New(rand.NewPCG(seed, 7))
	for _, s := range slices {
		for k := range s {
			s[k] = T(random.IntN(65)-32) / 8
		}
	}
}
