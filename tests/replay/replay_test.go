// Package replay holds pyhook replay against stock DistributedDataParallel: every hook that DDP runs
// is recorded under it, on real ranks, and replayed from Go with the same bits.
//
// The training of all cases is one job of PyTorch's, and all replays are one job of Go's.
package replay

import (
	"context"
	"go/format"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/c10d/hooks"
	"pyhook/cbridge"
	"pyhook/ddp"
	"pyhook/internal/hookspec"
	"pyhook/internal/replay"
	"pyhook/internal/trace"
	"pyhook/pyhook"
	"pyhook/tensor"
	"pyhook/tests/ranks"
	"pyhook/tests/recording"
)

func TestMain(m *testing.M) { ranks.Main(m, map[string]ranks.Func{"replays": replays}) }

// recorded is a case, and how it is replayed.
type recorded struct {
	recording.Case
	spec hookspec.Spec // of a hook that is not PyTorch's
	// refused matches the error of a torch under which stock DDP cannot run the hook
	// (docs/hooks.md); "": all can.
	refused string
}

var (
	small   = []int{20, 40, 40, 10}
	several = 0.004 // MiB: several buckets after the first step
	one     = 25.0
	power   = map[string]any{"matrix_approximation_rank": 2, "start_powerSGD_iter": 3, "min_compression_rate": 1}
)

const (
	noHalf  = "Invalid scalar type"
	noBF16  = noHalf + "|BF16 all reduce communication hook required CUDA"
	hooksPy = "recorded_hooks.py:"
)

// cases are every hook of docs/hooks.md that stock DDP runs on a CPU, and some of a user's own. groups
// are local SGD's.
func cases(groups ...[]int) []recorded {
	stock := func(name, hook string, cap float64, refused string) recorded {
		return recorded{Case: recording.Case{Name: name, Hook: hook, Sizes: small, CapMB: cap, Steps: 5, Record: 5}, refused: refused}
	}
	powered := func(name, hook, refused string) recorded {
		c := stock(name, hook, one, refused)
		c.State, c.StateArgs = "powersgd", power
		return c
	}
	local := func(name string, args map[string]any) recorded {
		c := stock(name, "post_localsgd", several, "")
		args["subgroup"], args["start_localSGD_iter"] = groups, 2
		c.State, c.StateArgs = "post_localsgd", args
		return c
	}
	own := func(name, state string) recorded {
		c := stock(name, hooksPy+name, several, "")
		c.spec.Hook = hooksPy + name
		if c.State = state; state != "" {
			c.State, c.spec.State = hooksPy+state, hooksPy+state
		}
		return c
	}
	warmup := stock("batched_powersgd", "batched_powersgd", one, "")
	warmup.State, warmup.StateArgs = "batched_powersgd", map[string]any{"start_powerSGD_iter": 100}
	views := stock("allreduce_views", "allreduce", several, "")
	views.View, views.Clip = true, 0.01
	doubles := stock("allreduce_float64", "allreduce", several, "")
	doubles.DType = "float64"
	sometimes := powered("powersgd_every_second_step", "powersgd", "")
	sometimes.Every, sometimes.Steps, sometimes.Record = 2, 8, 4
	alone := stock("allreduce_of_a_subgroup", "allreduce", several, "")
	alone.Group = true
	optimizer := own("then_optimizer()", "")
	optimizer.Name = "hook_then_optimizer"
	// The recording that is to replay for 50 steps: PowerSGD over several buckets, past its start.
	long := own("serial_powersgd", "")
	long.State, long.StateArgs, long.spec.State = "powersgd", power, "powersgd"
	long.Steps, long.Record = 50, 50
	return []recorded{
		stock("allreduce", "allreduce", several, ""), views, doubles, alone,
		stock("noop", "noop", several, ""),
		powered("powersgd", "powersgd", ""), sometimes, warmup,
		local("post_localsgd", map[string]any{}), local("post_localsgd_alone", map[string]any{"post_local_gradient_allreduce": false}),
		optimizer, long, own("random_k", ""), own("counted", "Scale"), own("offset_view", ""),
		stock("fp16", "fp16", several, noHalf), stock("bf16", "bf16", several, noBF16),
		stock("fp16_wrapper", "fp16_wrapper(allreduce)", several, noHalf), stock("bf16_wrapper", "bf16_wrapper(allreduce)", several, noBF16),
		powered("fp16_wrapper_powersgd", "fp16_wrapper(powersgd)", noHalf+"|addmm_impl_cpu_"),
		powered("bf16_wrapper_powersgd", "bf16_wrapper(powersgd)", noBF16),
		stock("quantize_pertensor", "quantize_pertensor", one, "must be cuda device|invalid index of a 0-dim"),
		stock("quantize_perchannel", "quantize_perchannel", one, "must be cuda device|too many indices"),
	}
}

// batch is what the ranks of one job replay.
type batch struct {
	Python string
	Plans  []replay.Plan
	Wrong  bool // with wrongHook
}

func replays(ctx context.Context, r *ranks.Rank) error {
	var todo batch
	if err := r.Args(&todo); err != nil {
		return err
	}
	rt, err := pyhook.Start(ctx, pyhook.Config{Python: todo.Python, Path: []string{recording.Testdata()}})
	if err != nil {
		return err
	}
	group, err := replay.Join(ctx, rt, &todo.Plans[0])
	if err != nil {
		return err
	}
	reports := make([]replay.RankReport, len(todo.Plans))
	for i := range todo.Plans {
		if todo.Wrong {
			todo.Plans[i].Hook = &wrongHook{hooks.AllReduceCommHook{Group: group}}
		}
		if err := replay.Run(ctx, rt, group, &todo.Plans[i], &reports[i]); err != nil {
			reports[i].Failure = &replay.Failure{Message: err.Error()}
		}
	}
	return r.Report(reports)
}

// run replays on as many ranks as the first plan names, and returns the ranks' reports of each plan.
func run(t *testing.T, plans []replay.Plan, wrong bool) [][]replay.RankReport {
	t.Helper()
	python, _, err := cbridge.Discover(t.Context(), "", "torch")
	require.NoError(t, err)
	world := len(plans[0].Ranks)
	job := ranks.RunOptions(t, ranks.Options{N: world, Case: "replays", Args: batch{python.Executable, plans, wrong}, Timeout: 4 * time.Minute})
	reports := make([][]replay.RankReport, len(plans))
	for rank := range world {
		for i, one := range ranks.Result[[]replay.RankReport](t, job, rank) {
			reports[i] = append(reports[i], one)
		}
	}
	return reports
}

func planOf(folder string, world int, c *recorded) replay.Plan {
	plan := replay.Plan{Folder: filepath.Join(folder, c.Name), Spec: c.spec, Backend: "gloo", Timeout: time.Minute}
	if plan.Spec.Hook != "" {
		plan.Spec.Hook = filepath.Join(recording.Testdata(), plan.Spec.Hook)
	}
	if plan.Spec.State != "" && plan.Spec.State != "powersgd" {
		plan.Spec.State = filepath.Join(recording.Testdata(), plan.Spec.State)
	}
	for rank := range world {
		plan.Ranks = append(plan.Ranks, rank)
	}
	return plan
}

// recordAll trains the cases, and returns those that stock DDP ran.
func recordAll(t *testing.T, world int, all []recorded) (folder string, ran []recorded) {
	t.Helper()
	var plain []recording.Case
	for _, c := range all {
		if c.Hook[0] == 'r' && c.spec.Hook != "" {
			c.Hook = filepath.Join(recording.Testdata(), c.Hook)
		}
		if c.spec.State != "" && c.State != "powersgd" {
			c.State = filepath.Join(recording.Testdata(), c.State)
		}
		plain = append(plain, c.Case)
	}
	folder, facts := recording.Make(t, world, plain)
	for _, c := range all {
		if failed := facts[c.Name][0].Error; failed != "" {
			require.NotEmpty(t, c.refused, "%s: %s\n%s", c.Name, failed, facts[c.Name][0].Where)
			require.Regexp(t, regexp.MustCompile(c.refused), failed, c.Name)
			t.Logf("%s: stock DDP of this torch cannot: %.80s", c.Name, failed)
			continue
		}
		ran = append(ran, c)
	}
	return folder, ran
}

func TestRun_StockDDP(t *testing.T) {
	const world = 2
	folder, ran := recordAll(t, world, cases([]int{0, 1}))
	var plans []replay.Plan
	for i := range ran {
		plans = append(plans, planOf(folder, world, &ran[i]))
	}
	// allreduce in the orders that are not its own, too.
	for _, order := range []ddp.Order{ddp.OrderSerial, ddp.OrderOverlapped} {
		plan := plans[0]
		plan.Order = order
		plans, ran = append(plans, plan), append(ran, ran[0])
	}
	reports := run(t, plans, false)
	for i, c := range ran {
		t.Run(c.Name, func(t *testing.T) {
			manifest, err := trace.OpenRank(filepath.Join(folder, c.Name), 0)
			require.NoError(t, err)
			defer manifest.Close()
			require.True(t, manifest.Complete)
			calls := 0
			for _, s := range manifest.Steps {
				calls += len(s.Calls)
			}
			for _, one := range reports[i] {
				require.Nil(t, one.Failure)
				assert.Len(t, one.Steps, c.Record)
				assert.Equal(t, calls, one.Compared)
				assert.Empty(t, one.Differences)
				assert.Empty(t, one.Notes)
				if c.Name == "offset_view" {
					assert.Len(t, one.Misread, calls, "stock DDP takes other elements")
				} else {
					assert.Empty(t, one.Misread)
				}
			}
			if c.CapMB == several && manifest.Steps[0].Step == 0 && c.Record > 1 {
				last := manifest.Steps[len(manifest.Steps)-1]
				assert.Greater(t, len(last.Calls), 1, "several buckets")
			}
		})
	}
	t.Run("a Go twin that rounds otherwise is caught with its first element", func(t *testing.T) {
		manifest, err := trace.OpenRank(plans[0].Folder, 0)
		require.NoError(t, err)
		defer manifest.Close()
		reports := run(t, plans[:1], true)
		for _, one := range reports[0] {
			require.Nil(t, one.Failure)
			require.Len(t, one.Differences, len(one.Steps), "one bucket of each step")
			d := one.Differences[0]
			assert.Equal(t, [5]int64{0, 0, 7, 1, 1}, [5]int64{int64(d.Step), int64(d.Bucket), d.First, d.Differing, d.ULPs})
			begins := manifest.Layouts[manifest.Steps[0].Calls[0].Layout].Gradients[0]
			require.Greater(t, begins.Length, int64(7))
			assert.Equal(t, manifest.Parameters[begins.Parameter].Name, d.Parameter)
			assert.Equal(t, int64(7), d.Index[len(d.Index)-1])
			assert.Equal(t, math.Nextafter32(float32(d.Recorded), float32(math.Inf(1))), float32(d.Replayed))
			assert.InDelta(t, math.Abs(float64(d.Replayed-d.Recorded)), d.Largest, 0)
		}
	})
	t.Run("the Go program of a recording compiles", func(t *testing.T) {
		for _, name := range []string{"powersgd", "post_localsgd", "counted", "hook_then_optimizer"} {
			rank, err := trace.OpenRank(filepath.Join(folder, name), 0)
			require.NoError(t, err)
			text, err := replay.Program(name, rank.Manifest, hookspec.Spec{})
			rank.Close()
			require.NoError(t, err)
			formatted, err := format.Source([]byte(text))
			require.NoError(t, err, "%s", text)
			assert.Equal(t, string(formatted), text, "as gofmt has it")
			compiles(t, name, text)
		}
	})
	t.Run("every hook that PyTorch ships by a short name is a case", func(t *testing.T) {
		for _, name := range []string{"allreduce", "fp16", "bf16", "powersgd", "batched_powersgd", "noop", "quantize_pertensor", "quantize_perchannel", "post_localsgd"} {
			assert.True(t, slices.ContainsFunc(cases(), func(c recorded) bool { return c.Hook == name }), name)
		}
	})
}

func TestRun_FourRanks(t *testing.T) {
	const world = 4
	all := slices.DeleteFunc(cases([]int{0, 1}, []int{2, 3}), func(c recorded) bool {
		return !slices.Contains([]string{"allreduce", "powersgd", "post_localsgd"}, c.Name)
	})
	folder, ran := recordAll(t, world, all)
	var plans []replay.Plan
	for i := range ran {
		plans = append(plans, planOf(folder, world, &ran[i]))
	}
	for i, reports := range run(t, plans, false) {
		for _, one := range reports {
			require.Nil(t, one.Failure, ran[i].Name)
			assert.Empty(t, one.Differences, ran[i].Name)
			assert.Len(t, one.Steps, 5)
		}
	}
	t.Run("two of the four replay in a group of two", func(t *testing.T) {
		plan := plans[0]
		plan.Ranks = []int{1, 3}
		reports := run(t, []replay.Plan{plan}, false)[0]
		assert.Equal(t, []int{1, 3}, []int{reports[0].Rank, reports[1].Rank})
		for _, one := range reports {
			require.Nil(t, one.Failure)
			assert.NotEmpty(t, one.Differences, "the mean of two is another")
		}
	})
}

// wrongHook averages, and gives the eighth element of the first bucket the next higher value.
type wrongHook struct{ hooks.AllReduceCommHook }

func (h *wrongHook) ParseHookResult(b *c10d.GradBucket, r c10d.Result) (*tensor.Tensor, error) {
	result, err := h.AllReduceCommHook.ParseHookResult(b, r)
	if err != nil || b.Index() > 0 {
		return result, err
	}
	values, err := tensor.Slice[float32](result)
	if err != nil {
		return nil, err
	}
	values[7] = math.Nextafter32(values[7], float32(math.Inf(1)))
	return result, nil
}

// compiles builds a program that uses this module.
func compiles(t *testing.T, name, text string) {
	t.Helper()
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("no go command here")
	}
	file := filepath.Join(t.TempDir(), "main.go")
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	out, err := exec.Command("go", "vet", file).CombinedOutput()
	require.NoError(t, err, "%s: %s", name, out)
}
