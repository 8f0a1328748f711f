package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"pyhook/launch"
)

// stopGrace is how long ranks may take to say where they were.
const stopGrace = 5 * time.Second

// spawnSelf runs a hidden subcommand on n ranks. What they print goes to out.
func spawnSelf(ctx context.Context, n int, out io.Writer, args ...string) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding this program: %w", err)
	}
	defer WaitingFor("the ranks to end, at most %s (%s)", stopGrace, InC)()
	return launch.Spawn(ctx, launch.SpawnConfig{
		Command: append([]string{self}, args...), N: n, Env: QuietEnvironment(os.Environ()),
		GracePeriod: stopGrace, Stdout: out, Stderr: out,
	})
}

// Ranks are the ranks that SpawnPlan ran, and what they left.
type Ranks struct {
	Dir    string            // the folder of their files
	Failed *launch.RankError // the one that failed first; nil: none
}

const planFile = "plan.json"

// SpawnPlan runs a command of RankCommand's on n ranks, which gets the plan and the interpreter.
// What they print goes to out; beside, if given, starts what runs meanwhile. name is the command's,
// for the folder and for what it says when a signal stops it. The caller closes the result.
func SpawnPlan(ctx context.Context, name string, n int, plan any, command, python string, out io.Writer, beside func(dir string) (stop func())) (r *Ranks, err error) {
	dir, err := os.MkdirTemp("", "pyhook-"+name+"-")
	if err != nil {
		return nil, fmt.Errorf("making a folder for the ranks' reports: %w", err)
	}
	r = &Ranks{Dir: dir}
	defer func() {
		if err != nil {
			r.Close()
		}
	}()
	if err := WriteJSON(filepath.Join(dir, planFile), plan); err != nil {
		return r, err
	}
	stop := func() {}
	if beside != nil {
		stop = beside(dir)
	}
	err = spawnSelf(ctx, n, out, command, "--dir", dir, "--python", python)
	stop()
	if stopped := Stopped(ctx, name); stopped != nil {
		return r, stopped
	}
	if err != nil && !errors.As(err, &r.Failed) {
		return r, err
	}
	return r, nil
}

// Read reads a rank's answer. An error: the rank ended without one.
func (r *Ranks) Read(rank int, into any) error { return ReadJSON(rankFile(r.Dir, rank), into) }

// FirstToFail reports whether the rank is the one that failed first.
func (r *Ranks) FirstToFail(rank int) bool { return r.Failed != nil && r.Failed.Rank == rank }

// HowItEnded says how a rank without an answer ended: what, or, of the one that failed first, by
// which exit code or signal.
func (r *Ranks) HowItEnded(rank int, what string) string {
	if !r.FirstToFail(rank) {
		return what
	}
	bare := launch.RankError{Rank: rank, ExitCode: r.Failed.ExitCode, Signal: r.Failed.Signal}
	return strings.TrimPrefix(bare.Error(), fmt.Sprintf("launch: rank %d ", rank))
}

// Close removes the folder.
func (r *Ranks) Close() { os.RemoveAll(r.Dir) }

// QuietEnvironment leaves out, where the user has not chosen, what drowns a report: torch's and
// gloo's own logs, and Go's dump of all goroutines where C code crashes.
func QuietEnvironment(env []string) []string {
	for _, setting := range []string{"TORCH_CPP_LOG_LEVEL=ERROR", "GLOO_LOG_LEVEL=ERROR", "GOTRACEBACK=none"} {
		name, _, _ := strings.Cut(setting, "=")
		if _, set := os.LookupEnv(name); !set {
			env = append(env, setting)
		}
	}
	return env
}
