package hookbench

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"pyhook/c10d"
	"pyhook/cbridge"
	"pyhook/internal/hookspec"
	"pyhook/internal/report"
	"pyhook/pyhook"
	"pyhook/tensor"
	"pyhook/worker"
)

// WorkerCases are calls in a worker process beside the same in this process.
func WorkerCases() []Case {
	spec := func(hook string) hookspec.Spec { return hookspec.Spec{Hook: hook} }
	of := func(hook string, bytes int64, params, world int) Case {
		return Case{Spec: spec(hook), Bytes: bytes, Params: params, World: world}
	}
	return []Case{
		of("noop", 4*kib, 1, 1), of("noop", 25*mib, 1, 1), of("allreduce", 4*kib, 1, 1), of("allreduce", 25*mib, 1, 1),
		of("allreduce", 4*kib, 64, 2), of("allreduce", 25*mib, 64, 2), of("powersgd", 25*mib, 64, 2),
	}
}

// workerBench is one case's sides.
type workerBench struct {
	c       Case
	closers []func()
}

func (b *workerBench) close() {
	for i := len(b.closers) - 1; i >= 0; i-- {
		b.closers[i]()
	}
}

// measureWorker times a case in this process and in w.
func measureWorker(ctx context.Context, rt *pyhook.Runtime, group *pyhook.TorchGroup, w *worker.Worker, j *job, c Case) (r WorkerRow, err error) {
	b := &workerBench{c: c}
	defer b.close()
	var args map[string]any
	if c.Spec.Hook == "powersgd" {
		args = map[string]any{"matrix_approximation_rank": 1, "start_powerSGD_iter": 2}
	}
	here, err := b.here(ctx, rt, group, args)
	if err != nil {
		return r, err
	}
	there, err := b.there(ctx, w, args)
	if err != nil {
		return r, err
	}
	sides := []side{here, there}
	if c.Spec.Hook == "noop" && c.Bytes == 4*kib {
		sides = append(sides, paused(here), paused(there))
	}
	blocks, calls := c.blocks(j.Scale)
	if c.Spec.Hook == "noop" {
		blocks, calls = max(3, blocks/10), 50
	}
	samples, err := interleave(sides, blocks, calls)
	if err != nil {
		return r, err
	}
	r = WorkerRow{Case: "worker/" + c.Name(), Copied: there.moved, HereUS: micro(samples[0], 0.5), ThereUS: micro(samples[1], 0.5), HereP99US: micro(samples[0], 0.99), ThereP99US: micro(samples[1], 0.99), Calls: len(samples[0])}
	r.MoreUS = r.ThereUS - r.HereUS
	if len(samples) > 2 {
		r.PausedHereUS, r.PausedThereUS = micro(samples[2], 0.5), micro(samples[3], 0.5)
	}
	return r, nil
}

func paused(s *goSide) *goSide {
	c := *s
	c.paused = true
	return &c
}

func (b *workerBench) here(ctx context.Context, rt *pyhook.Runtime, group *pyhook.TorchGroup, args map[string]any) (*goSide, error) {
	cfg := pyhook.HookConfig{}
	if args != nil {
		state, err := rt.NewState(ctx, "powersgd", args, group)
		if err != nil {
			return nil, err
		}
		b.closers = append(b.closers, state.Close)
		cfg.State = state
	}
	hook, err := rt.NewHook(ctx, b.c.Spec.Hook, cfg)
	if err != nil {
		return nil, err
	}
	b.closers = append(b.closers, hook.Close)
	return b.side(ctx, hook, tensor.New)
}

func (b *workerBench) there(ctx context.Context, w *worker.Worker, args map[string]any) (*goSide, error) {
	cfg := worker.HookConfig{}
	if args != nil {
		cfg.State = worker.State{Spec: "powersgd", Args: args}
	}
	hook, err := w.NewHook(ctx, b.c.Spec.Hook, cfg)
	if err != nil {
		return nil, err
	}
	b.closers = append(b.closers, hook.Close)
	return b.side(ctx, hook, func(dtype tensor.DType, shape ...int64) (*tensor.Tensor, error) {
		return w.NewBuffer(dtype, shape[0])
	})
}

func (b *workerBench) side(ctx context.Context, hook c10d.ChainedHook, allocate func(tensor.DType, ...int64) (*tensor.Tensor, error)) (*goSide, error) {
	buffer, err := allocate(tensor.Float32, b.c.Bytes/4)
	if err != nil {
		return nil, err
	}
	b.closers = append(b.closers, buffer.Close)
	values, err := tensor.Slice[float32](buffer)
	if err != nil {
		return nil, err
	}
	for i := range values {
		values[i] = float32(i%1000)*1e-3 - 0.5
	}
	bucket, err := b.c.bucket(buffer, nil)
	if err != nil {
		return nil, err
	}
	b.closers = append(b.closers, bucket.Close)
	return &goSide{ctx: ctx, hook: hook, bucket: bucket, buffer: buffer}, nil
}

// measureWorkers is what each rank does for the cases of workers.
func measureWorkers(ctx context.Context, rt *pyhook.Runtime, group *pyhook.TorchGroup, j *job) error {
	w, err := startWorker(ctx, j, group)
	if err != nil {
		return err
	}
	defer w.Close()
	var rows []WorkerRow
	for _, c := range j.Cases {
		if group.Rank() == 0 {
			fmt.Fprintf(os.Stderr, "%-24s %s\n", c.Name(), time.Now().Format(time.TimeOnly))
		}
		r, err := measureWorker(ctx, rt, group, w, j, c)
		if err != nil {
			return fmt.Errorf("%s: %w", c.Name(), err)
		}
		rows = append(rows, r)
	}
	return j.write(group, rows)
}

// RunWorkers measures the cases in this process and in a worker. The program must
// call worker.Main.
func RunWorkers(ctx context.Context, o Options) ([]WorkerRow, error) {
	python, _, err := cbridge.Discover(ctx, o.Python, "torch")
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(o.Folder, 0o777); err != nil {
		return nil, err
	}
	return runWorlds[WorkerRow](ctx, o, job{Python: python.Executable, Path: o.Path, Scale: o.Scale, Workers: true})
}

// store is where the workers of a job meet.
func (j *job) store() string { return j.Rows + ".store" }

// startWorker starts the worker of a rank, beside the rank's own group.
func startWorker(ctx context.Context, j *job, group *pyhook.TorchGroup) (*worker.Worker, error) {
	return worker.Start(ctx, worker.Config{
		Python: j.Python, Path: j.Path, Rank: group.Rank(), Size: group.Size(), InitMethod: "file://" + j.store(), Output: os.Stderr,
	})
}

// WorkerRow is one case's figures: medians of microseconds a call.
type WorkerRow struct {
	Case       string  `json:"case"`
	HereUS     float64 `json:"in_process_us"`
	ThereUS    float64 `json:"worker_us"`
	MoreUS     float64 `json:"more_us"`
	HereP99US  float64 `json:"in_process_p99_us"`
	ThereP99US float64 `json:"worker_p99_us"`
	// After a pause of 1 ms, when both sides sleep.
	PausedHereUS  float64 `json:"paused_in_process_us,omitempty"`
	PausedThereUS float64 `json:"paused_worker_us,omitempty"`
	Copied        bool    `json:"copied"` // a worker's result was not the bucket's own memory
	Calls         int     `json:"calls"`
}

// PrintWorkerTable prints rows for people.
func PrintWorkerTable(w io.Writer, rows []WorkerRow) {
	if len(rows) == 0 {
		return
	}
	fmt.Fprint(w, "\na worker process beside this one, in us a call (medians)\n\n")
	cells := [][]report.Cell{report.Row("in process", "worker", "more", "in process p99", "worker p99", "copied", "case")}
	for _, r := range rows {
		copied := "0"
		if r.Copied {
			copied = "other memory"
		}
		cells = append(cells, report.Row(us(r.HereUS), us(r.ThereUS), fmt.Sprintf("%+.2f", r.MoreUS), us(r.HereP99US), us(r.ThereP99US), copied, r.Case))
	}
	report.New(w).Table("", report.AlignRight, cells)
	for _, r := range rows {
		if r.PausedThereUS > 0 {
			fmt.Fprintf(w, "%s with 1 ms between calls: %s us in process, %s us in a worker\n", r.Case, us(r.PausedHereUS), us(r.PausedThereUS))
		}
	}
}
