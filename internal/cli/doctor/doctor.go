// Package doctor is pyhook doctor: it says whether this machine can run hooks.
package doctor

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"pyhook/cbridge"
	"pyhook/internal/cli"
	"pyhook/internal/report"
)

const doctorLong = `Say whether this machine can run Python hooks: which interpreter was chosen and
why, its libpython and torch, what each backend can really all-reduce (two ranks
try it), and the traps of this installation with their fixes.

The exit code is 0 when hooks can run (warnings or not), 1 when there is a
problem, 3 when there is no Python to use. For health checks: --quick, which
leaves out the two ranks.`

// Command returns pyhook doctor. version is the command's own, for the report.
func Command(version string) *cobra.Command {
	var asJSON, quick bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Say whether this machine can run hooks, and what to mend",
		Long:  doctorLong,
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			line := report.NewProgress(cmd.ErrOrStderr())
			r, err := diagnose(cmd.Context(), version, cli.PythonFlag(cmd), quick, line.Set)
			line.Clear()
			if err != nil {
				return err
			}
			if err := cli.Print(cmd, asJSON, r, func(out, _ *report.Printer) { printDoctor(out, r) }); err != nil {
				return err
			}
			return cli.Exit(r.ExitCode)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object (see pyhook help json)")
	cmd.Flags().BoolVar(&quick, "quick", false, "do not start two ranks to try the backends")
	return cmd
}

// The states of a check.
const (
	statusOK      = "ok"
	statusWarning = "warning"
	statusProblem = "problem"
)

type doctorCheck struct {
	ID      string `json:"id"`
	Status  string `json:"status"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
}

type doctorPython struct {
	Executable   string `json:"executable"`
	Source       string `json:"source"`
	Version      string `json:"version"`
	FreeThreaded bool   `json:"free_threaded"`
	Prefix       string `json:"prefix"`
	VirtualEnv   bool   `json:"virtual_env"`
	Library      string `json:"library"`
}

type doctorTorch struct {
	Version            string   `json:"version"`
	Numpy              *string  `json:"numpy"`
	Distributed        bool     `json:"distributed"`
	CUDA               bool     `json:"cuda"`
	Devices            []string `json:"devices"`
	LibuvWorks         bool     `json:"libuv_works"`
	TorchrunBroken     bool     `json:"torchrun_broken"`
	TorchrunLacksLibuv bool     `json:"torchrun_lacks_libuv"`
}

type doctorBackend struct {
	BuiltIn bool              `json:"built_in"`
	Tried   bool              `json:"tried"`
	Ranks   int               `json:"ranks"`
	DTypes  map[string]string `json:"dtypes"`
	Error   string            `json:"error,omitempty"`
}

// doctorReport is the whole diagnosis; `pyhook help json` describes it.
type doctorReport struct {
	Healthy  bool                      `json:"healthy"`
	ExitCode int                       `json:"exit_code"`
	Version  string                    `json:"version"`
	Quick    bool                      `json:"quick"`
	Python   *doctorPython             `json:"python"`
	Refused  []cbridge.Attempt         `json:"refused"`
	Torch    *doctorTorch              `json:"torch"`
	Backends map[string]*doctorBackend `json:"backends"`
	Checks   []doctorCheck             `json:"checks"`
}

func (r *doctorReport) add(id, status, hint, format string, args ...any) {
	r.Checks = append(r.Checks, doctorCheck{id, status, fmt.Sprintf(format, args...), hint})
}

// diagnose finds everything out. Its error is a cancelled context or a broken
// machine; what is wrong with Python is in the report.
func diagnose(ctx context.Context, version, python string, quick bool, say func(string)) (*doctorReport, error) {
	r := &doctorReport{Version: version, Quick: quick, Refused: []cbridge.Attempt{},
		Backends: map[string]*doctorBackend{}, Checks: []doctorCheck{}}
	say("looking for Python ...")
	usable, err := r.findPython(ctx, python)
	if err != nil {
		return nil, err
	}
	if usable {
		say("starting Python and torch ...")
		probe, err := runProbe(ctx, r.Python.Executable)
		if err != nil {
			return nil, err
		}
		usable = r.takeProbe(probe)
		if usable {
			r.checkTorch()
			r.checkMachine()
		}
	}
	if usable && !quick && r.Torch.Distributed {
		say("trying the backends with two ranks ...")
		if err := r.tryBackends(ctx); err != nil {
			return nil, err
		}
	}
	r.conclude(usable)
	return r, nil
}

// findPython chooses as pyhook.Start does. Without torch it still reports which
// interpreter would have been taken.
func (r *doctorReport) findPython(ctx context.Context, explicit string) (usable bool, err error) {
	python, refused, err := cbridge.Discover(ctx, explicit, "torch")
	var discovery *cbridge.DiscoveryError
	if err != nil && !errors.As(err, &discovery) {
		return false, err
	}
	r.Refused = append(r.Refused, refused...)
	if err == nil {
		r.Python = describePython(python)
		return true, nil
	}
	r.Refused = append([]cbridge.Attempt{}, discovery.Tried...)
	bare, _, bareErr := cbridge.Discover(ctx, explicit)
	if bareErr != nil {
		r.add("python", statusProblem, discovery.Hint, "no usable Python")
		return false, ctx.Err()
	}
	r.Python = describePython(bare)
	r.add("torch", statusProblem, fmt.Sprintf("%s -m pip install torch, or choose another Python: PYHOOK_PYTHON, --python", bare.Executable),
		"no Python with torch: %s has none", bare.Executable)
	return false, nil
}

func describePython(p *cbridge.Python) *doctorPython {
	source := p.Source
	if source == "Config.Python" {
		source = "--python"
	}
	return &doctorPython{Executable: p.Executable, Source: source, Version: p.Version, FreeThreaded: p.FreeThreaded,
		Prefix: p.Prefix, VirtualEnv: filepath.Clean(p.Prefix) != filepath.Clean(p.BasePrefix)}
}

func (r *doctorReport) conclude(usable bool) {
	r.Healthy = !slices.ContainsFunc(r.Checks, func(c doctorCheck) bool { return c.Status == statusProblem })
	switch {
	case !usable:
		r.Healthy, r.ExitCode = false, cli.ExitNoPython
	case !r.Healthy:
		r.ExitCode = cli.ExitFailed
	}
}
