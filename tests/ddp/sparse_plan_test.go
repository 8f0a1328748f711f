package ddp

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// sparseCase is a seeded model of embeddings and dense layers.
type sparseCase struct {
	Name   string        `json:"name"`
	Hook   string        `json:"hook"` // none, allreduce, summed, fp16
	Params []sparseParam `json:"params"`
	Cap    int           `json:"cap"`   // bytes
	First  int           `json:"first"` // bytes
	Find   bool          `json:"find"`
	View   bool          `json:"view"`
	Static bool          `json:"static"`
	NoSync int           `json:"no_sync"` // a step whose gradients the next one adds to; -1: none
	// Steps are the gradients by rank, step and parameter; nil: unused.
	Steps [][][]*given `json:"steps"`
}

type sparseParam struct {
	Shape  []int64 `json:"shape"` // rows, width
	DType  string  `json:"dtype"`
	Sparse bool    `json:"sparse"`
}

// given is a local gradient: rows of a sparse one, all of a dense one.
type given struct {
	Rows   []int64   `json:"rows"`
	Values []float64 `json:"values"`
}

const sparseSteps = 4

// newSparseModel makes the model of a seed. Rows repeat, within a rank and over
// the ranks, and some values are so small that dividing them gives -0.
func newSparseModel(seed uint64, world int) *sparseCase {
	random := rand.New(rand.NewPCG(seed, 99))
	c := &sparseCase{Cap: []int{200, 4000, 25 << 20}[random.IntN(3)], First: []int{100, 1 << 20}[random.IntN(2)],
		Find: seed%4 == 1, Static: seed%4 == 2, View: seed%4 == 3, NoSync: -1}
	if seed%3 == 1 && !c.Static {
		c.NoSync = 1
	}
	for i := range 4 + random.IntN(4) {
		p := sparseParam{Shape: []int64{1 + random.Int64N(20), 1 + random.Int64N(6)}, DType: "float32", Sparse: i%2 == 0}
		if seed%2 == 1 && i%3 == 0 {
			p.DType = "float64"
		}
		c.Params = append(c.Params, p)
	}
	for rank := range world {
		var steps [][]*given
		for step := range sparseSteps {
			var list []*given
			for i, p := range c.Params {
				g := p.gradient(random, c.NoSync >= 0, world)
				if c.Find && rank == 0 && step > 0 && i == 1 {
					g = nil
				}
				list = append(list, g)
			}
			steps = append(steps, list)
		}
		c.Steps = append(c.Steps, steps)
	}
	return c
}

// gradient is one of any floats; exact: of such as, divided by the ranks, add up to
// the same in any order, since torch adds the uncoalesced gradients of two backward
// passes in an order of its own.
func (p sparseParam) gradient(random *rand.Rand, exact bool, world int) *given {
	g := &given{}
	n := p.Shape[0]
	if p.Sparse {
		n = 1 + random.Int64N(12)
		for range n {
			g.Rows = append(g.Rows, random.Int64N(p.Shape[0]))
		}
	}
	for range n * p.Shape[1] {
		x := random.NormFloat64()
		switch {
		case exact:
			x = float64(world*(random.IntN(64)-32)) / 8
		case random.IntN(8) == 0:
			x = -math.SmallestNonzeroFloat32
			if p.DType == "float64" {
				x = -math.SmallestNonzeroFloat64
			}
		case p.DType == "float32":
			x = float64(float32(x))
		}
		g.Values = append(g.Values, x)
	}
	return g
}

// writeSparsePlan makes the cases by number of ranks.
func writeSparsePlan(t *testing.T, folder string) map[int][]*sparseCase {
	t.Helper()
	cases := map[int][]*sparseCase{}
	for _, world := range []int{2, 3} {
		for seed := range uint64(8) {
			for _, hook := range []string{"none", "allreduce", "summed"} {
				c := newSparseModel(seed, world)
				c.Hook, c.Name = hook, fmt.Sprintf("sparse%d.world%d.%s", seed, world, hook)
				cases[world] = append(cases[world], c)
			}
		}
		c := newSparseModel(0, world)
		c.Hook, c.Name = "fp16", fmt.Sprintf("sparse0.world%d.fp16", world)
		cases[world] = append(cases[world], c) // last: it fails
	}
	text, err := json.Marshal(cases)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(folder, "sparse.json"), text, 0o600))
	return cases
}
