package hookbench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

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
	Only    string   // one side alone, go, cpp or python, for a profiler: no rows
	Profile string   // rank 0's Go CPU profile
	// RankArgs make this program call Rank.
	RankArgs []string
	// Say, if not nil, is told what is done.
	Say func(format string, args ...any)
}

// job is what the ranks of one world size are to do.
type job struct {
	Python  string   // the interpreter
	Path    []string // the peer's folders and the user's
	Loops   string   // loops.py
	Cpp     bool     // there is a C++ side
	Cases   []Case
	Scale   float64
	Profile string
	Only    string
	Rows    string // rank 0 writes its rows here

	RankArgs    []string
	Apart       bool // this is the process of apart.go, of this rank and world
	Rank, World int

	WorkerCases []Case // in place of Cases: see RunWorkers
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
	j := job{Python: python.Executable, Path: append([]string{sources}, o.Path...), Loops: filepath.Join(sources, "loops.py"),
		Cpp: noCpp == nil, Scale: o.Scale, Profile: o.Profile, Only: o.Only}
	if j.Cpp {
		j.Path = append(j.Path, built)
	}
	worlds := map[int][]Case{}
	most := 0
	for _, c := range o.Cases {
		worlds[c.World] = append(worlds[c.World], c)
		most = max(most, c.World)
	}
	for world := 1; world <= most; world++ {
		j.Cases = worlds[world]
		j.Rows = filepath.Join(o.Folder, fmt.Sprintf("rows.world%d.json", world))
		var got []Row
		if err := j.spawn(ctx, world, o.RankArgs, &got); err != nil {
			return nil, noCpp, err
		}
		rows = append(rows, got...)
	}
	return rows, noCpp, nil
}

// spawn runs the job on processes of this program, one a rank, and reads rank 0's
// rows into rows.
func (j *job) spawn(ctx context.Context, world int, args []string, rows any) error {
	if len(j.Cases)+len(j.WorkerCases) == 0 {
		return nil
	}
	j.RankArgs = args
	text, err := json.Marshal(j)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	env := append(os.Environ(), jobVariable+"="+string(text), "OMP_NUM_THREADS=1", "MKL_NUM_THREADS=1", "OPENBLAS_NUM_THREADS=1")
	if os.Getenv("GLOO_SOCKET_IFNAME") == "" {
		env = append(env, "GLOO_SOCKET_IFNAME=lo")
	}
	ctx, cancel := context.WithTimeout(ctx, time.Hour)
	defer cancel()
	err = launch.Spawn(ctx, launch.SpawnConfig{Command: append([]string{self}, args...), N: world, Env: env, GracePeriod: 3 * time.Second, Stdout: os.Stderr, Stderr: os.Stderr})
	if err != nil || j.Only != "" {
		return err
	}
	data, err := os.ReadFile(j.Rows)
	if err != nil {
		return err
	}
	_ = os.Remove(j.Rows + ".store") // of apart.go, if there was one
	return errors.Join(json.Unmarshal(data, rows), os.Remove(j.Rows))
}

// IsRank says whether this process is a rank that Run started.
func IsRank() bool { return os.Getenv(jobVariable) != "" }

// Rank does a rank's part of Run.
func Rank(ctx context.Context) error {
	var j job
	if err := json.Unmarshal([]byte(os.Getenv(jobVariable)), &j); err != nil {
		return fmt.Errorf("%s: %w", jobVariable, err)
	}
	if j.Apart {
		return serve(ctx, &j)
	}
	return measure(ctx, &j)
}
