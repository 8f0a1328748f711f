package doctor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"pyhook/internal/cli"
	"pyhook/launch"
	"pyhook/pyhook"
)

// probeLimit bounds the start of Python and torch.
const probeLimit = 3 * time.Minute

// probeResult is what a child process found by starting Python in itself. A
// broken installation may take a process down: then it is the child's.
type probeResult struct {
	Info        pyhook.Info    `json:"info"`
	Environment map[string]any `json:"environment"`
	Error       string         `json:"error"` // Python did not start
	Traceback   string         `json:"traceback"`
	Died        string         `json:"died"` // how the child ended, without an answer
	Output      string         `json:"-"`    // the last it printed
}

// ProbeCommand is the child.
func ProbeCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:    "__doctor-probe",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := launch.DieWithParent(); err != nil {
				return err
			}
			return cli.WriteJSON(file, probeHere(cmd.Context(), cli.PythonFlag(cmd)))
		},
	}
	cmd.Flags().StringVar(&file, "file", "", "where the answer goes")
	return cmd
}

func probeHere(ctx context.Context, python string) *probeResult {
	rt, err := cli.StartRuntime(ctx, python)
	if err != nil {
		return &probeResult{Error: err.Error(), Traceback: cli.PythonTraceback(err)}
	}
	result := &probeResult{Info: rt.Info()}
	if result.Environment, err = rt.Environment(); err != nil {
		result.Error, result.Traceback = err.Error(), cli.PythonTraceback(err)
	}
	for name, value := range result.Environment {
		result.Environment[name] = forJSON(value)
	}
	return result
}

// forJSON gives a dict text keys.
func forJSON(value any) any {
	dict, ok := value.(map[any]any)
	if !ok {
		return value
	}
	table := map[string]any{}
	for key, v := range dict {
		table[fmt.Sprint(key)] = forJSON(v)
	}
	return table
}

// runProbe starts the child and waits for its answer.
func runProbe(ctx context.Context, python string) (*probeResult, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("finding this program: %w", err)
	}
	dir, err := os.MkdirTemp("", "pyhook-doctor-")
	if err != nil {
		return nil, fmt.Errorf("making a folder for the probe: %w", err)
	}
	defer os.RemoveAll(dir)
	limited, cancel := context.WithTimeout(ctx, probeLimit)
	defer cancel()
	file := filepath.Join(dir, "probe.json")
	cmd := exec.CommandContext(limited, self, "__doctor-probe", "--file", file, "--python", python)
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	cmd.Env = cli.QuietEnvironment(os.Environ())
	cmd.WaitDelay = time.Second
	runErr := cmd.Run()
	if err := cli.Stopped(ctx, "diagnosis"); err != nil {
		return nil, err
	}
	var result probeResult
	if err := cli.ReadJSON(file, &result); err != nil {
		result = probeResult{Died: endOf(runErr, limited.Err())}
	}
	result.Output = lastLines(output.String(), 12)
	return &result, nil
}

// endOf says how the child ended without an answer.
func endOf(err, limit error) string {
	var exit *exec.ExitError
	switch {
	case limit != nil:
		return fmt.Sprintf("it did not start in %s", probeLimit)
	case !errors.As(err, &exit):
		return fmt.Sprint(err)
	}
	if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return "the process was ended by " + status.Signal().String()
	}
	return fmt.Sprintf("the process exited with code %d", exit.ExitCode())
}

// takeProbe reads the answer; false: Python cannot be used.
func (r *doctorReport) takeProbe(p *probeResult) bool {
	switch {
	case p.Died != "":
		r.add("start", statusProblem, "run "+r.Python.Executable+` -c "import torch.distributed" alone: if that works, please report this`,
			"starting Python inside pyhook failed: %s\n%s", p.Died, p.Output)
		return false
	case p.Error != "":
		message, hint, _ := strings.Cut(p.Error, "\nhint: ")
		if p.Traceback != "" {
			message += "\n" + strings.TrimSpace(p.Traceback)
		}
		r.add("start", statusProblem, hint, "%s", message)
		return false
	}
	r.Python.Version, r.Python.Library = p.Info.Version, p.Info.Library
	env := p.Environment
	r.Torch = &doctorTorch{Version: p.Info.Torch, Devices: []string{}}
	if numpy, ok := env["numpy"].(string); ok {
		r.Torch.Numpy = &numpy
	}
	r.Torch.Distributed, _ = env["distributed_available"].(bool)
	r.Torch.CUDA, _ = env["cuda_available"].(bool)
	r.Torch.LibuvWorks, _ = env["libuv_works"].(bool)
	r.Torch.TorchrunBroken, _ = env["torchrun_broken"].(bool)
	r.Torch.TorchrunLacksLibuv, _ = env["torchrun_lacks_libuv"].(bool)
	devices, _ := env["devices"].([]any)
	for _, device := range devices {
		r.Torch.Devices = append(r.Torch.Devices, fmt.Sprint(device))
	}
	backends, _ := env["backends"].(map[string]any)
	for name, there := range backends {
		builtIn, _ := there.(bool)
		r.Backends[name] = &doctorBackend{BuiltIn: builtIn, DTypes: map[string]string{}}
	}
	return true
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
