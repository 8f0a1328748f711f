package hookbench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"pyhook/c10d"
	"pyhook/cbridge"
	"pyhook/launch"
)

const jobVariable = "PYHOOK_BENCH_JOB"

// Options of a run.
type Options struct {
	Cases   []Case
	Python  string   // the interpreter; empty: as pyhook.Start chooses
	Path    []string // put before sys.path
	Scale   float64  // times as many blocks of calls
	Folder  string   // where the C++ peer is built and kept
	NeedCpp bool     // an error if the peer cannot be built; else the rest is measured
	// RankArgs make this program call Rank.
	RankArgs []string
	// Say, if not nil, is called with what is done next.
	Say func(format string, args ...any)
}

// job is what the ranks of one world size are to do.
type job struct {
	Python  string   // the interpreter
	Path    []string // the peer's folders and the user's
	Cpp     bool     // there is a C++ side
	Workers bool     // the other side is a worker: see RunWorkers
	Cases   []Case
	Scale   float64
	Rows    string // rank 0 writes its rows here

	RankArgs    []string
	Separate    bool // this is the process of separate.go, of this rank and world
	Rank, World int
}

// Run measures the cases, those of one world size after the other, on processes
// of their own. noCpp says why there is no C++ side, if there is none.
func Run(ctx context.Context, o Options) (rows []Row, noCpp error, err error) {
	if o.Say == nil {
		o.Say = func(string, ...any) {}
	}
	python, _, err := cbridge.Discover(ctx, o.Python, "torch")
	if err != nil {
		return nil, nil, err
	}
	sources, built, noCpp := buildPeer(ctx, python.Executable, o.Folder, o.Say)
	if sources == "" || noCpp != nil && o.NeedCpp {
		return nil, nil, noCpp
	}
	j := job{RankArgs: o.RankArgs, Python: python.Executable, Path: append([]string{sources}, o.Path...), Cpp: noCpp == nil, Scale: o.Scale}
	if j.Cpp {
		j.Path = append(j.Path, built)
	}
	rows, err = runWorlds[Row](ctx, o, j)
	return rows, noCpp, err
}

// runWorlds runs a job's cases, those of one world size after the other.
func runWorlds[R any](ctx context.Context, o Options, j job) (rows []R, err error) {
	worlds := map[int][]Case{}
	for _, c := range o.Cases {
		worlds[c.World] = append(worlds[c.World], c)
	}
	for _, world := range slices.Sorted(maps.Keys(worlds)) {
		j.Cases = worlds[world]
		j.Rows = filepath.Join(o.Folder, fmt.Sprintf("rows.world%d.json", world))
		_ = os.Remove(j.store()) // of a run that was killed
		var got []R
		if err := Spawn(ctx, world, o.RankArgs, jobVariable, &j, j.Rows, &got); err != nil {
			return nil, err
		}
		_ = os.Remove(j.store())
		rows = append(rows, got...)
	}
	return rows, nil
}

// write writes rank 0's rows.
func (j *job) write(group c10d.ProcessGroup, rows any) error {
	if group.Rank() != 0 {
		return nil
	}
	data, err := json.Marshal(rows)
	if err != nil {
		return err
	}
	return os.WriteFile(j.Rows, data, 0o644)
}

// Spawn runs a job on processes of this program, one a rank, which read it as JSON from the
// variable, and reads the rows that rank 0 has written to a file.
func Spawn(ctx context.Context, world int, args []string, variable string, job any, file string, rows any) error {
	text, err := json.Marshal(job)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	// One thread of arithmetic a rank, as torchrun sets it.
	env := append(os.Environ(), variable+"="+string(text), "OMP_NUM_THREADS=1", "MKL_NUM_THREADS=1", "OPENBLAS_NUM_THREADS=1")
	if os.Getenv("GLOO_SOCKET_IFNAME") == "" {
		env = append(env, "GLOO_SOCKET_IFNAME=lo")
	}
	ctx, cancel := context.WithTimeout(ctx, time.Hour)
	defer cancel()
	if err := launch.Spawn(ctx, launch.SpawnConfig{Command: append([]string{self}, args...), N: world, Env: env,
		GracePeriod: 3 * time.Second, Stdout: os.Stderr, Stderr: os.Stderr}); err != nil {
		return err
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	return errors.Join(json.Unmarshal(data, rows), os.Remove(file))
}

// IsRank says whether this process is a rank that Run started.
func IsRank() bool { return os.Getenv(jobVariable) != "" }

// Rank does a rank's part of Run.
func Rank(ctx context.Context) error {
	var j job
	if err := json.Unmarshal([]byte(os.Getenv(jobVariable)), &j); err != nil {
		return fmt.Errorf("%s: %w", jobVariable, err)
	}
	if j.Separate {
		return serve(ctx, &j)
	}
	return measure(ctx, &j)
}
