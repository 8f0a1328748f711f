// Package stock compares what a trainer's ranks reduced with stock DistributedDataParallel: the
// weights and gradients of each step before the reduction go through torch's DDP, on as many ranks
// and with the same hook, and its reduced gradients must be the same bits.
//
// A rank writes down its steps in a Dump; Run, in the test, runs testdata/dumped.py on them. It
// is for ddp/flat and the adapters; tests/ddp has models made for the purpose.
package stock

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/cbridge"
	"pyhook/ddp"
	"pyhook/pyhook"
	"pyhook/tests/ranks"
)

// everywhere are hooks that newHook knows and that any torch runs; shipped are those of which a torch
// may run some (testdata/shipped.py, and fp16): with these all of docs/hooks.md that run on gloo.
var (
	everywhere = []string{"none", "allreduce", "powersgd", "updates", "by_norm", "doubled"}
	shipped    = []string{"fp16", "noop", "bf16", "fp16_allreduce", "bf16_allreduce", "fp16_powersgd", "bf16_powersgd", "batched_powersgd",
		"post_localsgd", "quantize_pertensor", "quantize_perchannel", "then_optimizer"}
)

// diverging are hooks after whose steps the ranks' values are not the same.
var diverging = []string{"updates", "noop", "post_localsgd"}

// alike says whether what Digest has found, at the end, is what the hook leaves.
func alike(hook string, digest error) error {
	if !slices.Contains(diverging, hook) {
		return digest
	}
	if !errors.Is(digest, ddp.ErrValues) {
		return errors.Join(fmt.Errorf("%s: the ranks' values are the same", hook), digest)
	}
	return nil
}

// Dump is what one rank did with one hook.
type Dump struct {
	hook    string
	rank    int
	steps   int
	params  []param
	in, out []byte
	weights []byte // of the last step
	changed bool   // the weights have, between two steps
}

type param struct {
	Shape []int64 `json:"shape"`
	DType string  `json:"dtype"`
	Bytes int     `json:"bytes"`
}

// testCase is what dumped.py reads.
type testCase struct {
	Name   string  `json:"name"`
	Hook   string  `json:"hook"`
	Steps  int     `json:"steps"`
	Params []param `json:"params"`
}

// Train is what a rank does with one hook: it trains some steps, and notes each by Before and After. It
// also returns what Digest finds at the end.
type Train func(ctx context.Context, group c10d.ProcessGroup, hook c10d.CommHook, d *Dump) (digest, err error)

// Run has 2 and 4 real ranks train with each hook of docs/hooks.md that this torch runs, over gloo, and
// compares. The test's TestMain gives Ranks to ranks.Main as the case "hooks".
func Run(t *testing.T) {
	hooks := hooksHere(t)
	for _, n := range []int{2, 4} {
		t.Run(fmt.Sprintf("%d ranks", n), func(t *testing.T) {
			job := ranks.RunOptions(t, ranks.Options{N: n, Case: "hooks", Args: hooks, Timeout: 5 * time.Minute})
			compareAll(t, job.Dir, n, hooks)
		})
	}
}

// Ranks is a rank's part of Run.
func Ranks(train Train) ranks.Func {
	return func(ctx context.Context, rank *ranks.Rank) error {
		var hooks []string
		if err := rank.Args(&hooks); err != nil {
			return err
		}
		rt, err := pyhook.Start(ctx, pyhook.Config{})
		if err != nil {
			return err
		}
		world, err := rt.InitProcessGroup(ctx, pyhook.GroupConfig{Backend: "gloo", Timeout: time.Minute})
		if err != nil {
			return err
		}
		for _, name := range hooks {
			if err := dump(ctx, rt, world, name, train, rank.Dir); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		return world.Barrier(ctx)
	}
}

// dump trains with a hook and writes what was noted to a folder that all ranks share.
func dump(ctx context.Context, rt *pyhook.Runtime, world *pyhook.TorchGroup, name string, train Train, folder string) error {
	hook, free, err := newHook(ctx, rt, name)
	if err != nil {
		return err
	}
	defer free()
	d := &Dump{hook: name, rank: world.Rank()}
	digest, err := train(ctx, world, hook, d)
	if err == nil && !d.changed {
		err = errors.New("nothing was trained")
	}
	return errors.Join(err, alike(name, digest), d.write(folder))
}

// Of says of which parameters the weights and gradients are, in this order.
func (d *Dump) Of(params []*c10d.Parameter) {
	d.params = nil
	for _, p := range params {
		n := int64(p.DType.Size())
		for _, size := range p.Shape {
			n *= size
		}
		d.params = append(d.params, param{p.Shape, p.DType.String(), int(n)})
	}
}

// Before notes a step's weights and gradients before the reduction.
func Before[T float32 | float64](d *Dump, weights, gradients [][]T) {
	d.steps++
	now := appendAll(nil, weights)
	d.changed = d.changed || d.weights != nil && !bytes.Equal(now, d.weights)
	d.weights = now
	d.in = appendAll(append(d.in, now...), gradients)
}

// After notes the reduced gradients.
func After[T float32 | float64](d *Dump, reduced [][]T) { d.out = appendAll(d.out, reduced) }

func appendAll[T float32 | float64](data []byte, all [][]T) []byte {
	for _, s := range all {
		data, _ = binary.Append(data, binary.LittleEndian, s)
	}
	return data
}

func (d *Dump) write(folder string) error {
	text, err := json.Marshal(testCase{d.hook, d.hook, d.steps, d.params})
	if err != nil {
		return err
	}
	for _, f := range []struct {
		name string
		data []byte
	}{{file("in", d.hook, d.rank), d.in}, {file("go", d.hook, d.rank), d.out}, {"case." + d.hook + ".json", text}} {
		if f.name[:4] == "case" && d.rank > 0 {
			continue
		}
		if err := os.WriteFile(filepath.Join(folder, f.name), f.data, 0o600); err != nil {
			return err
		}
	}
	return nil
}

func file(side, name string, rank int) string {
	return fmt.Sprintf("%s.%s.rank%d.bin", side, name, rank)
}

// newHook makes a hook of this rank. nil for "none". The caller calls free.
func newHook(ctx context.Context, rt *pyhook.Runtime, name string) (hook c10d.CommHook, free func(), err error) {
	switch name {
	case "none":
		return nil, func() {}, nil
	case "powersgd":
		state, err := rt.NewState(ctx, name, map[string]any{"matrix_approximation_rank": 1, "start_powerSGD_iter": 2, "min_compression_rate": 1}, nil)
		if err != nil {
			return nil, nil, err
		}
		h, err := rt.NewHook(ctx, name, pyhook.HookConfig{State: state})
		if err != nil {
			state.Close()
			return nil, nil, err
		}
		return h, func() { h.Close(); state.Close() }, nil
	case "updates", "by_norm", "doubled":
		name = filepath.Join(programs(), "hooked.py") + ":" + name
	case "allreduce", "fp16":
	default:
		name = filepath.Join(here(), "testdata", "shipped.py") + ":" + name
	}
	h, err := rt.NewHook(ctx, name, pyhook.HookConfig{})
	if err != nil {
		return nil, nil, err
	}
	return h, h.Close, nil
}

// here is this package's folder.
func here() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Dir(file)
}

// programs is where tests/ddp has its Python.
func programs() string { return filepath.Join(here(), "..", "ddp", "testdata") }

// compareAll runs stock DDP on what the ranks wrote to folder with these hooks, and compares.
func compareAll(t *testing.T, folder string, ranks int, hooks []string) {
	t.Helper()
	interpreter, _, err := cbridge.Discover(t.Context(), "", "torch")
	require.NoError(t, err)
	var cases []json.RawMessage
	for _, hook := range hooks {
		text, err := os.ReadFile(filepath.Join(folder, "case."+hook+".json"))
		require.NoError(t, err)
		cases = append(cases, text)
	}
	plan, err := json.Marshal(map[int][]json.RawMessage{ranks: cases})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(folder, "stock.json"), plan, 0o600))
	cmd := exec.CommandContext(t.Context(), interpreter.Executable, "-B", filepath.Join(here(), "testdata", "dumped.py"), folder)
	cmd.Env = append(os.Environ(), "PYTHONPATH="+programs(), "OMP_NUM_THREADS=1", "OPENBLAS_NUM_THREADS=1", "MKL_NUM_THREADS=1")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	for i, hook := range hooks {
		t.Run(hook, func(t *testing.T) {
			var c testCase
			require.NoError(t, json.Unmarshal(cases[i], &c))
			for rank := range ranks {
				require.NoError(t, compare(folder, c, rank))
			}
		})
	}
}

func compare(folder string, c testCase, rank int) error {
	want, err := os.ReadFile(filepath.Join(folder, file("stock", c.Name, rank)))
	if err != nil {
		return err
	}
	got, err := os.ReadFile(filepath.Join(folder, file("go", c.Name, rank)))
	if err != nil {
		return err
	}
	if len(want) != len(got) || len(want) == 0 {
		return fmt.Errorf("rank %d: %d bytes of reduced gradients, and %d of stock DDP's", rank, len(got), len(want))
	}
	offset := 0
	for step := range c.Steps {
		for i, p := range c.Params {
			end := offset + p.Bytes
			if !slices.Equal(want[offset:end], got[offset:end]) {
				return fmt.Errorf("rank %d, step %d, parameter %d: stock DDP reduces other gradients", rank, step, i)
			}
			offset = end
		}
	}
	return nil
}

// hooksHere are the hooks that this torch runs.
func hooksHere(t *testing.T) []string {
	t.Helper()
	interpreter, _, err := cbridge.Discover(t.Context(), "", "torch")
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), interpreter.Executable, "-B", filepath.Join(here(), "testdata", "shipped.py"))
	cmd.Env = append(os.Environ(), "GLOO_SOCKET_IFNAME=lo", "OMP_NUM_THREADS=1")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	require.NoError(t, err)
	runs := strings.Fields(string(out))
	for _, name := range []string{"noop", "batched_powersgd", "post_localsgd", "then_optimizer"} {
		require.Contains(t, runs, name, "any torch runs it")
	}
	list := slices.Clone(everywhere)
	for _, name := range shipped {
		if slices.Contains(runs, name) {
			list = append(list, name)
		} else {
			t.Logf("no %s: this torch cannot run it here", name)
		}
	}
	return list
}
