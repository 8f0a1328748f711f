package job_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/ddp"
	"pyhook/ddp/flat"
	"pyhook/internal/testutil"
	"pyhook/job"
	"pyhook/launch"
	"pyhook/pyhook"
	"pyhook/tensor"
	"pyhook/worker"
)

const (
	caseVariable  = "PYHOOK_TEST_CASE"
	ranksVariable = "PYHOOK_TEST_RANKS"
	readyVariable = "PYHOOK_TEST_READY"
)

// TestMain is the program of the tests too: a case, whose ranks and workers are this binary again.
func TestMain(m *testing.M) {
	name := os.Getenv(caseVariable)
	if name == "" {
		os.Exit(m.Run())
	}
	ranks, _ := strconv.Atoi(os.Getenv(ranksVariable))
	cfg := job.Config{Ranks: ranks}
	if name == "worker" {
		cfg.Worker = &worker.Config{}
	}
	if name == "own main" {
		os.Exit(ownMain(cfg))
	}
	cfg.Main(cases[name])
}

// cases are what the ranks do.
var cases = map[string]job.Func{
	"mean":   mean,
	"worker": mean,
	"sigterm": func(ctx context.Context, j *job.Job) error {
		job.Check(os.WriteFile(os.Getenv(readyVariable), nil, 0o600))
		<-ctx.Done()
		return ctx.Err()
	},
	// The last rank fails while the others wait for it in a step.
	"error": func(ctx context.Context, j *job.Job) error {
		model := job.Must(j.DDP(ctx, parameters(), ddp.Options{}))
		if j.Rank() == j.Size()-1 {
			return errors.New("the data is bad")
		}
		job.Check(model.Ready(0))
		_, err := model.Wait(ctx)
		return err
	},
	// The last rank has fewer batches than the others.
	"fewer steps": func(ctx context.Context, j *job.Job) error {
		model := job.Must(j.DDP(ctx, parameters(), ddp.Options{}))
		for range j.Size() - j.Rank() {
			job.Check(model.Ready(0))
			job.Must(model.Wait(ctx))
		}
		return nil
	},
	// The same with a Reducer that the job does not know of.
	"fewer steps of flat": func(ctx context.Context, j *job.Job) error {
		grad := []float32{1, 2}
		model := job.Must(flat.New(ctx, []flat.Param[float32]{{Name: "w", Grad: &grad}}, ddp.Options{Group: j.Group()}))
		for range j.Size() - j.Rank() {
			job.Check(model.Step(ctx))
		}
		return nil
	},
	"hook raises": func(ctx context.Context, j *job.Job) error {
		hook := job.Must(j.Hook(ctx, "testdata/hooks.py:raises_on_one"))
		model := job.Must(j.DDP(ctx, parameters(), ddp.Options{Hook: hook}))
		job.Check(model.Ready(0))
		job.Must(model.Wait(ctx))
		return nil
	},
	"no hook on one": func(ctx context.Context, j *job.Job) error {
		hook := "fp16"
		if j.Rank() == 1 {
			hook = "fp61"
		}
		_, err := j.Hook(ctx, hook)
		return err
	},
	// The last rank has another hook, or another state of torch's, than the others.
	"other hooks": func(ctx context.Context, j *job.Job) error {
		last := j.Rank() == j.Size()-1
		powersgd := func(rank int) c10d.CommHook {
			return job.Must(j.Hook(ctx, "powersgd", pyhook.HookConfig{State: pyhook.StateSpec{Spec: "powersgd", Args: map[string]any{"matrix_approximation_rank": rank}}}))
		}
		for _, hooks := range [][2]c10d.CommHook{
			{job.Must(j.Hook(ctx, "fp16")), job.Must(j.Hook(ctx, "allreduce"))},
			{powersgd(1), powersgd(2)},
			{nil, job.Must(j.Hook(ctx, "testdata/hooks.py:raises_on_one"))},
		} {
			hook := hooks[0]
			if last {
				hook = hooks[1]
			}
			_, err := j.DDP(ctx, parameters(), ddp.Options{Hook: hook})
			if !errors.Is(err, ddp.ErrMismatch) {
				return fmt.Errorf("not refused: %w", err)
			}
			fmt.Println(err)
		}
		return nil
	},
	"panic": func(_ context.Context, j *job.Job) error {
		return make([]error, 0)[j.Rank()]
	},
	// The last rank's value changes after the first step.
	"drift": func(ctx context.Context, j *job.Job) error {
		params := parameters()
		model := job.Must(j.DDP(ctx, params, ddp.Options{Hook: job.Must(j.Hook(ctx, "allreduce")), DigestEvery: 2}))
		for step := range 4 {
			fmt.Println("step", step)
			job.Check(model.Ready(0))
			job.Must(model.Wait(ctx))
			if values := job.Must(tensor.Slice[float32](params[0].Data)); j.Rank() == 1 {
				values[1]++
			}
		}
		return nil
	},
	"other values on one": func(ctx context.Context, j *job.Job) error {
		params := parameters()
		if j.Rank() == 1 {
			params[0].Data = nil
		}
		_, err := j.DDP(ctx, params, ddp.Options{})
		return err
	},
}

// parameters are one, with a value of its own on each rank.
func parameters() []*c10d.Parameter {
	rank, _ := strconv.Atoi(os.Getenv("RANK"))
	data := job.Must(tensor.FromSlice([]float32{float32(7 + rank), 8}))
	return []*c10d.Parameter{{Name: "w", Shape: []int64{2}, DType: tensor.Float32, Data: data}}
}

// mean trains for a step by a hook with a state. Rank 0 is done first.
func mean(ctx context.Context, j *job.Job) error {
	hook := job.Must(j.Hook(ctx, "testdata/hooks.py:scaled", pyhook.HookConfig{
		State: pyhook.StateSpec{Spec: "testdata/hooks.py:Factor", Args: map[string]any{"factor": 2}}}))
	params := parameters()
	model := job.Must(j.DDP(ctx, params, ddp.Options{Hook: hook}))
	grad := job.Must(tensor.Slice[float32](model.Gradient(0)))
	grad[0], grad[1] = float32(j.Rank()), 1
	job.Check(model.Ready(0))
	job.Must(model.Wait(ctx))
	values := job.Must(tensor.Slice[float32](params[0].Data))
	_, again := job.Join(ctx, job.Config{})
	time.Sleep(time.Duration(j.Rank()) * 300 * time.Millisecond)
	fmt.Printf("rank %d of %d: value %v, twice the mean %v, again: %v\n", j.Rank(), j.Size(), values, grad, again)
	if j.Rank() == 0 {
		model.Close() // earlier than the job does it
	}
	return nil
}

// ownMain joins without Main, and closes twice.
func ownMain(cfg job.Config) int {
	job.Spawn(cfg.Ranks)
	ctx := context.Background()
	j, err := job.Join(ctx, job.Config{})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return launch.Fail(err)
	}
	err = errors.Join(mean(j.Context(), j), j.Leave(ctx), j.Close(), j.Close())
	_, after := j.Hook(ctx, "fp16")
	_, again := job.Join(ctx, job.Config{})
	fmt.Printf("closed: %v, %v, %v\n", c10d.IsClosed(after), again, j.Context().Err())
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	return launch.Fail(err)
}

// variables are what launchers set.
var variables = []string{"RANK=", "WORLD_SIZE=", "LOCAL_", "GROUP_", "MASTER_", "TORCHELASTIC_", "PET_", "SLURM_", "OMPI_", "PMI_", "MV2_"}

func environment(name string, more ...string) []string {
	env := slices.DeleteFunc(os.Environ(), func(variable string) bool {
		return slices.ContainsFunc(variables, func(prefix string) bool { return strings.HasPrefix(variable, prefix) })
	})
	return append(append(env, caseVariable+"="+name, "GLOO_SOCKET_IFNAME=lo", "OMP_NUM_THREADS=1"), more...)
}

// process is a case's, and what it printed.
type process struct {
	cmd            *exec.Cmd
	stdout, stderr bytes.Buffer
	errorFile      string // torchelastic's
	readyFile      string
}

func start(t *testing.T, name string, env ...string) *process {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	folder := t.TempDir()
	p := &process{errorFile: filepath.Join(folder, "error.json"), readyFile: filepath.Join(folder, "ready")}
	p.cmd = exec.CommandContext(ctx, self)
	p.cmd.Env = environment(name, append(env, "TORCHELASTIC_ERROR_FILE="+p.errorFile, readyVariable+"="+p.readyFile)...)
	p.cmd.Stdout, p.cmd.Stderr = &p.stdout, &p.stderr
	require.NoError(t, p.cmd.Start())
	return p
}

// ready waits until the case has come to where it says so.
func (p *process) ready(t *testing.T) {
	t.Helper()
	testutil.Eventually(t, func() bool { _, err := os.Stat(p.readyFile); return err == nil })
}

// end waits and returns the exit code.
func (p *process) end(t *testing.T) int {
	t.Helper()
	var exit *exec.ExitError
	if err := p.cmd.Wait(); err != nil {
		require.ErrorAs(t, err, &exit, "%s", p.stderr.String())
	}
	return p.cmd.ProcessState.ExitCode()
}

// lines are sorted: ranks print at their own time.
func lines(text string) []string {
	list := strings.Split(strings.TrimSpace(text), "\n")
	slices.Sort(list)
	return list
}

// spawned runs a case on two ranks as torchrun does, and returns the first failure and stderr.
func spawned(t *testing.T, name string) (stdout, stderr string, err error) {
	t.Helper()
	self, failed := os.Executable()
	require.NoError(t, failed)
	var out, errs bytes.Buffer
	err = launch.Spawn(testutil.Soon(t), launch.SpawnConfig{Command: []string{self}, N: 2, Env: environment(name),
		Show: launch.ShowPlain, Stdout: &out, Stderr: &errs})
	return out.String(), errs.String(), err
}
