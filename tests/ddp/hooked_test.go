package ddp

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/cbridge"
	"pyhook/tensor"
	"pyhook/tests/ranks"
)

// hookedCase is a model whose gradients are given, and a hook.
type hookedCase struct {
	Name   string        `json:"name"`
	Hook   string        `json:"hook"` // none, allreduce, fp16, or of hooked.py; go: and go_fp16: Go's own, none of stock's
	View   bool          `json:"view"`
	Cap    int           `json:"cap"`
	Steps  int           `json:"steps"`
	Params []hookedParam `json:"params"`
}

type hookedParam struct {
	Shape []int64 `json:"shape"`
	DType string  `json:"dtype"`
	Bytes int     `json:"bytes"`
}

func (c *hookedCase) complex() bool { return strings.HasPrefix(c.Name, "complex") }

// hookedReport is what Go did on a rank.
type hookedReport struct {
	Error   string
	Complex bool // it is c10d.ErrComplex
}

func hookedCases() (list []*hookedCase) {
	add := func(kind, hook string, view bool, params ...hookedParam) {
		c := &hookedCase{Name: fmt.Sprintf("%s_%s_%v", kind, hook, view), Hook: hook, View: view, Cap: 64, Steps: 3, Params: params}
		for i, p := range params {
			dtype, _ := tensor.ParseDType(p.DType)
			n := 1
			for _, size := range p.Shape {
				n *= int(size)
			}
			c.Params[i].Bytes = n * dtype.Size()
		}
		list = append(list, c)
	}
	for _, view := range []bool{false, true} {
		for _, hook := range []string{"none", "allreduce", "fp16", "doubled"} {
			add("complex", hook, view, hookedParam{Shape: []int64{2, 3}, DType: "complex64"}, hookedParam{Shape: []int64{5}, DType: "float32"},
				hookedParam{Shape: []int64{4}, DType: "complex128"}, hookedParam{Shape: []int64{1}, DType: "complex64"}, hookedParam{Shape: []int64{7, 2}, DType: "complex64"})
		}
		for _, hook := range []string{"updates", "by_norm"} {
			add("weights", hook, view, hookedParam{Shape: []int64{3, 4}, DType: "float32"}, hookedParam{Shape: []int64{9}, DType: "float64"}, hookedParam{Shape: []int64{5, 5}, DType: "float32"})
		}
	}
	return list
}

// writeHooked writes the plan, and each rank's weights (alike) and gradients.
func writeHooked(t *testing.T, folder string, world int, cases []*hookedCase) {
	t.Helper()
	text, err := json.Marshal(map[int][]*hookedCase{world: cases})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(folder, "hooked.json"), text, 0o600))
	for at, c := range cases {
		for rank := range world {
			var data []byte
			for block := range c.Steps + 1 {
				seed := uint64(at*100 + block*10)
				if block > 0 {
					seed += uint64(rank) + 1
				}
				random := rand.New(rand.NewPCG(seed, 1))
				for _, p := range c.Params {
					data = appendNumbers(data, p, random, !c.View)
				}
			}
			require.NoError(t, os.WriteFile(filepath.Join(folder, fmt.Sprintf("in.%s.rank%d.bin", c.Name, rank)), data, 0o600))
		}
	}
}

// appendNumbers appends a parameter's, some of them zero, of either sign or, where
// autograd adds them to zeros in the bucket, positive.
func appendNumbers(data []byte, p hookedParam, random *rand.Rand, signed bool) []byte {
	wide := p.DType == "float64" || p.DType == "complex128"
	for end := len(data) + p.Bytes; len(data) < end; {
		x := random.NormFloat64()
		if random.IntN(8) == 0 {
			zero := 0.0
			if signed {
				zero = math.Copysign(0, x)
			}
			x = zero
		}
		if wide {
			data = binary.LittleEndian.AppendUint64(data, math.Float64bits(x))
		} else {
			data = binary.LittleEndian.AppendUint32(data, math.Float32bits(float32(x)))
		}
	}
	return data
}

// Complex parameters, and hooks that read or step the weights, against stock DDP: the
// gradients and the weights of each step, bit for bit. What this torch's DDP cannot is
// c10d.ErrComplex.
func TestComplexParametersAndWeightsInHooksAreStockDDPsBitForBit(t *testing.T) {
	interpreter, _, err := cbridge.Discover(t.Context(), "", "torch")
	require.NoError(t, err)
	const world = 2
	folder, cases := t.TempDir(), hookedCases()
	if !reducesHalves(t, interpreter.Executable) {
		cases = without(cases, "fp16")
	}
	writeHooked(t, folder, world, cases)
	runStock(t, interpreter.Executable, "hooked.py", folder)
	ranks.Shared(t, ranks.Options{N: world, Case: "hooked", Args: batch[*hookedCase]{interpreter.Executable, folder, cases}, Timeout: 5 * time.Minute})
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			for rank := range world {
				compareHooked(t, folder, c, rank)
			}
		})
	}
}

func without(cases []*hookedCase, hook string) (rest []*hookedCase) {
	for _, c := range cases {
		if c.Hook != hook {
			rest = append(rest, c)
		}
	}
	return rest
}

func compareHooked(t *testing.T, folder string, c *hookedCase, rank int) {
	file := func(side, kind string) []byte {
		data, err := os.ReadFile(filepath.Join(folder, fmt.Sprintf("%s.%s.rank%d.%s", side, c.Name, rank, kind)))
		require.NoError(t, err)
		return data
	}
	var stock struct {
		Error string
		Modes []bool
	}
	var got hookedReport
	require.NoError(t, json.Unmarshal(file("stock", "json"), &stock))
	require.NoError(t, json.Unmarshal(file("go", "json"), &got))
	if stock.Error != "" { // torch 1.13: DDP cannot be made
		require.True(t, c.complex(), stock.Error)
		require.Contains(t, stock.Error, "Invalid scalar type")
		if c.Hook == "none" { // Go's own way needs no torch's DDP
			require.Empty(t, got.Error)
			return
		}
		require.True(t, got.Complex, got.Error)
		assert.Contains(t, got.Error, "DistributedDataParallel of torch")
		assert.Contains(t, got.Error, "hint: ")
		return
	}
	require.Empty(t, got.Error)
	assert.NotContains(t, stock.Modes, true, "autograd in stock DDP's hook calls")
	want := file("stock", "bin")
	require.NotEmpty(t, want)
	if got := file("go", "bin"); !bytes.Equal(want, got) {
		require.Len(t, got, len(want))
		at := 0
		for want[at] == got[at] {
			at++
		}
		require.Failf(t, "gradients or weights differ", "rank %d, first in byte %d of %d, %d of a step", rank, at, len(want), len(want)/c.Steps)
	}
}

// The Go hooks average complex gradients on every torch.
func TestGoHooksAverageComplexGradients(t *testing.T) {
	interpreter, _, err := cbridge.Discover(t.Context(), "", "torch")
	require.NoError(t, err)
	const world = 2
	var cases []*hookedCase
	for _, hook := range []string{"go", "go_fp16"} {
		if hook == "go_fp16" && !reducesHalves(t, interpreter.Executable) {
			continue
		}
		cases = append(cases, &hookedCase{Name: "complex_" + hook, Hook: hook, Cap: 64, Steps: 2, Params: []hookedParam{{[]int64{3}, "complex64", 24}}})
	}
	folder := t.TempDir()
	writeHooked(t, folder, world, cases)
	ranks.Shared(t, ranks.Options{N: world, Case: "hooked", Args: batch[*hookedCase]{interpreter.Executable, folder, cases}})
	for _, c := range cases {
		var in [world][]byte
		for rank := range world {
			in[rank], err = os.ReadFile(filepath.Join(folder, fmt.Sprintf("in.%s.rank%d.bin", c.Name, rank)))
			require.NoError(t, err)
		}
		out, err := os.ReadFile(filepath.Join(folder, fmt.Sprintf("go.%s.rank0.bin", c.Name)))
		require.NoError(t, err)
		require.Len(t, out, 2*2*24)
		number := func(data []byte, k int) float64 {
			return float64(math.Float32frombits(binary.LittleEndian.Uint32(data[4*k:])))
		}
		for step := range 2 {
			for k := range 6 {
				mean := (number(in[0], 6*(step+1)+k) + number(in[1], 6*(step+1)+k)) / 2
				assert.InDelta(t, mean, number(out, 12*step+k), 2e-3, "%s, step %d, part %d", c.Name, step, k)
			}
		}
	}
}
