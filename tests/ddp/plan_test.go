package ddp

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// plan is the cases by number of ranks.
type plan map[int][]*modelCase

// modelCase is a seeded model with a hook, on a number of ranks.
type modelCase struct {
	Name   string       `json:"name"`
	Model  string       `json:"model"` // of the inputs: the same for all hooks
	Hook   string       `json:"hook"`  // none, allreduce, fp16, powersgd
	Params []modelParam `json:"params"`
	Cap    int          `json:"cap"`   // bytes
	First  int          `json:"first"` // bytes
	Find   bool         `json:"find"`
	View   bool         `json:"view"`
	Static bool         `json:"static"`
	NoSync int          `json:"no_sync"` // a step whose gradients the next one adds to; -1: none
	// Used is how often a parameter is used, by rank, step and parameter.
	Used [][][]int `json:"used"`
}

type modelParam struct {
	Shape []int64 `json:"shape"`
	DType string  `json:"dtype"`
	Bytes int     `json:"bytes"`
}

const steps = 5

// newModel makes the model of a seed. One in four has unused parameters and
// looks for them, one in four a static graph, one in four gradients in the
// buckets; half of them have shared parameters and half both dtypes; one in three
// has a step without synchronisation.
func newModel(seed uint64, world int) *modelCase {
	random := rand.New(rand.NewPCG(seed, 77))
	c := &modelCase{
		Model: fmt.Sprintf("model%d.world%d", seed, world),
		Cap:   []int{300, 3000, 20000, 25 << 20}[random.IntN(4)],
		First: []int{100, 1000, 1 << 20}[random.IntN(3)],
		Find:  seed%4 == 1, Static: seed%4 == 2, View: seed%4 == 3, NoSync: -1,
	}
	if seed%3 == 1 {
		c.NoSync = 2
	}
	shared := make([]bool, 3+random.IntN(10))
	for i := range shared {
		p := modelParam{DType: "float32", Bytes: 4}
		if seed%2 == 1 && random.IntN(3) == 0 {
			p.DType, p.Bytes = "float64", 8
		}
		for range 1 + random.IntN(3) {
			size := 1 + random.IntN(12)
			p.Shape, p.Bytes = append(p.Shape, int64(size)), p.Bytes*size
		}
		c.Params = append(c.Params, p)
		shared[i] = seed%4 >= 2 && random.IntN(3) == 0
	}
	for range world {
		var rank [][]int
		for range steps {
			step := make([]int, len(shared))
			for i := range step {
				switch {
				case shared[i]:
					step[i] = 2
				case !c.Find || random.IntN(3) > 0:
					step[i] = 1
				}
			}
			if c.Find {
				step[random.IntN(len(step))] = 1 // a loss needs one
			}
			rank = append(rank, step)
		}
		c.Used = append(c.Used, rank)
	}
	return c
}

// writeInputs writes the gradients: a rank's steps one after another.
func (c *modelCase) writeInputs(folder string, seed uint64) error {
	for rank, ofRank := range c.Used {
		random := rand.New(rand.NewPCG(seed, uint64(rank)+100))
		var file bytes.Buffer
		for _, used := range ofRank {
			for i, p := range c.Params {
				for range used[i] {
					for range p.elements() {
						var x any = random.NormFloat64()
						if p.DType == "float32" {
							x = float32(x.(float64))
						}
						if err := binary.Write(&file, binary.LittleEndian, x); err != nil {
							return err
						}
					}
				}
			}
		}
		if err := os.WriteFile(filepath.Join(folder, fmt.Sprintf("in.%s.rank%d.bin", c.Model, rank)), file.Bytes(), 0o600); err != nil {
			return err
		}
	}
	return nil
}

func (p modelParam) elements() int {
	n := 1
	for _, size := range p.Shape {
		n *= int(size)
	}
	return n
}

// writePlan makes the cases and their inputs; halves says that fp16 is among the hooks.
func writePlan(t *testing.T, folder string, models int, halves bool) plan {
	t.Helper()
	cases := plan{}
	for _, world := range []int{2, 3, 4} {
		hooks := []string{"none", "allreduce", "powersgd"}
		if halves {
			hooks = append(hooks, "fp16")
		}
		if world == 3 {
			hooks = hooks[:1] // where 1/size is rounded
		}
		for seed := range uint64(models) {
			model := newModel(seed, world)
			require.NoError(t, model.writeInputs(folder, seed))
			for _, hook := range hooks {
				c := *model
				c.Hook, c.Name = hook, model.Model+"."+hook
				cases[world] = append(cases[world], &c)
			}
		}
	}
	text, err := json.Marshal(cases)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(folder, "plan.json"), text, 0o600))
	return cases
}
