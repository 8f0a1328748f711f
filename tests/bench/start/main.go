// Command start times a cold start: from the start of a process to the end of
// its first hook call, beside what any Python program pays that uses torch. A start before those
// that count has kept the bytecode of pyhook's own Python, in a folder of the benchmark's.
//
//	make bench-start              # or: go run ./tests/bench/start
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"

	"pyhook/c10d"
	"pyhook/cbridge"
	"pyhook/internal/quantile"
	"pyhook/pyhook"
	"pyhook/tensor"
)

const childVariable = "PYHOOK_BENCH_START_CHILD"

func main() {
	run := parent
	if os.Getenv(childVariable) != "" {
		run = child
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench-start:", err)
		os.Exit(1)
	}
}

// child is a trainer's first hook call.
func child() error {
	ctx := context.Background()
	rt, err := pyhook.Start(ctx, pyhook.Config{})
	if err != nil {
		return err
	}
	hook, err := rt.NewHook(ctx, "noop", pyhook.HookConfig{})
	if err != nil {
		return err
	}
	buffer, err := tensor.New(tensor.Float32, 1024)
	if err != nil {
		return err
	}
	bucket, err := c10d.NewGradBucket(c10d.BucketConfig{Count: 1, Buffer: buffer, Offsets: []int64{0}, Lengths: []int64{1024}, Sizes: [][]int64{{1024}}})
	if err != nil {
		return err
	}
	future, err := hook.RunHook(ctx, bucket)
	if err != nil {
		return err
	}
	_, err = future.Wait(ctx)
	return err
}

// row is what is written to out/bench/start.json. Each figure is a median; ratios are of
// neighbouring pairs. CPU seconds are user's and system's, of child processes too: another
// program on the machine changes them less than those of the clock.
type row struct {
	Ratio            float64 `json:"ratio"`
	CPURatio         float64 `json:"cpu_ratio"`
	GoSeconds        float64 `json:"go_seconds"`
	PythonSeconds    float64 `json:"python_seconds"`
	GoCPUSeconds     float64 `json:"go_cpu_seconds"`
	PythonCPUSeconds float64 `json:"python_cpu_seconds"`
	Pairs            int     `json:"pairs"`
	Torch            string  `json:"torch"`
	Python           string  `json:"python"`
	Go               string  `json:"go"`
}

func parent() error {
	pairs := flag.Int("pairs", 11, "starts of each side")
	out := flag.String("out", "out/bench", "folder of start.json")
	flag.Parse()
	python, _, err := cbridge.Discover(context.Background(), "", "torch")
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cache, err := os.MkdirTemp("", "bench-start-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(cache)
	env := append(os.Environ(), "XDG_CACHE_HOME="+cache, "PYTHONDONTWRITEBYTECODE=")
	ours := func() *exec.Cmd {
		cmd := exec.Command(self)
		cmd.Env = append(env, childVariable+"=1", "PYHOOK_PYTHON="+python.Executable)
		return cmd
	}
	// Neither side is finalised: what follows the first call is not its cost.
	theirs := func() *exec.Cmd {
		cmd := exec.Command(python.Executable, "-c", "import torch, torch.distributed, os; os._exit(0)")
		cmd.Env = env
		return cmd
	}
	r := row{Pairs: *pairs, Go: runtime.Version()}
	version, err := exec.Command(python.Executable, "-c", "import torch, platform; print(torch.__version__, platform.python_version())").Output()
	if err != nil {
		return err
	}
	if _, err := fmt.Sscan(string(version), &r.Torch, &r.Python); err != nil {
		return err
	}
	var all [6][]float64
	for i := range *pairs + 1 {
		a, err := seconds(ours())
		if err != nil {
			return err
		}
		b, err := seconds(theirs())
		if err != nil {
			return err
		}
		if i == 0 {
			continue // files are read from the disk, and bytecode is kept
		}
		for i, v := range []float64{a.clock / b.clock, a.cpu / b.cpu, a.clock, b.clock, a.cpu, b.cpu} {
			all[i] = append(all[i], v)
		}
	}
	for i, to := range []*float64{&r.Ratio, &r.CPURatio, &r.GoSeconds, &r.PythonSeconds, &r.GoCPUSeconds, &r.PythonCPUSeconds} {
		*to = quantile.At(all[i], 0.5)
	}
	fmt.Printf("torch %s, Python %s: first hook call after %.2f s (CPU %.2f s), python -c 'import torch, torch.distributed' %.2f s (%.2f s), ratio %.2f (%.2f); medians of %d pairs\n",
		r.Torch, r.Python, r.GoSeconds, r.GoCPUSeconds, r.PythonSeconds, r.PythonCPUSeconds, r.Ratio, r.CPURatio, r.Pairs)
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(*out, 0o777); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(*out, "start.json"), append(data, '\n'), 0o644)
}

// times are of one start, in seconds.
type times struct{ clock, cpu float64 }

func seconds(cmd *exec.Cmd) (times, error) {
	start := time.Now()
	if out, err := cmd.CombinedOutput(); err != nil {
		return times{}, fmt.Errorf("%v: %w\n%s", cmd.Args, err, out)
	}
	clock := time.Since(start).Seconds()
	return times{clock, (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds()}, nil
}
