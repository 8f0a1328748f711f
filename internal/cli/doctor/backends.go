package doctor

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"pyhook/internal/cli"
	"pyhook/launch"
	"pyhook/pyhook"
)

const (
	backendLimit = 2 * time.Minute  // for all ranks of one backend
	joinLimit    = 30 * time.Second // for the rendezvous and each collective
)

// tryBackends has real ranks all-reduce every dtype. gloo gets two; nccl one
// for each GPU, up to two. mpi and ucc need a launcher of their own.
func (r *doctorReport) tryBackends(ctx context.Context) error {
	for _, name := range slices.Sorted(maps.Keys(r.Backends)) {
		b := r.Backends[name]
		switch {
		case !b.BuiltIn:
			continue
		case name == "gloo":
			b.Ranks = 2
		case name == "nccl" && len(r.Torch.Devices) > 0:
			b.Ranks = min(2, len(r.Torch.Devices))
		default:
			continue
		}
		if err := r.tryBackend(ctx, name, b); err != nil {
			return err
		}
	}
	return nil
}

// tryBackend starts the ranks. Their output is kept, not shown: torch's C++
// logs to it on a healthy machine too.
func (r *doctorReport) tryBackend(ctx context.Context, name string, b *doctorBackend) error {
	dir, err := os.MkdirTemp("", "pyhook-doctor-")
	if err != nil {
		return fmt.Errorf("making a folder for the ranks' reports: %w", err)
	}
	defer os.RemoveAll(dir)
	limited, cancel := context.WithTimeout(ctx, backendLimit)
	defer cancel()
	b.Tried = true
	var output bytes.Buffer
	spawnErr := cli.SpawnSelf(limited, b.Ranks, &output, "__doctor-rank", "--dir", dir, "--backend", name, "--python", r.Python.Executable)
	if err := cli.Stopped(ctx, "diagnosis"); err != nil {
		return err
	}
	var answer rankDTypes
	if err := cli.ReadJSON(cli.RankFileName(dir, 0), &answer); err == nil && spawnErr == nil && answer.Error == "" {
		b.DTypes = answer.DTypes
		r.checkHalf(name, b.DTypes)
		return nil
	}
	b.Error = rankTrouble(dir, b.Ranks, spawnErr, output.String())
	r.add(name, statusProblem, "", "%d ranks on %s cannot all-reduce:\n%s", b.Ranks, name, b.Error)
	return nil
}

// checkHalf warns of the dtype that compression hooks need first of all.
func (r *doctorReport) checkHalf(name string, dtypes map[string]string) {
	refusal, tried := dtypes["float16"]
	if !tried || refusal == "" {
		return
	}
	hint := "choose another torch for them, or another hook"
	if dtypes["bfloat16"] == "" {
		hint = "the bf16 hooks work"
	}
	r.add(name+"_float16", statusWarning, hint, "%s refuses float16: the fp16 hooks fail on it\n%s", name, refusal)
}

// rankTrouble is what the ranks said, or how they ended.
func rankTrouble(dir string, ranks int, spawnErr error, output string) string {
	for rank := range ranks {
		var answer rankDTypes
		if err := cli.ReadJSON(cli.RankFileName(dir, rank), &answer); err == nil && answer.Error != "" {
			return answer.Error
		}
	}
	return strings.TrimSpace(strings.TrimPrefix(fmt.Sprint(spawnErr), "launch: ") + "\n" + lastLines(output, 8))
}

// rankDTypes is a rank's answer.
type rankDTypes struct {
	DTypes map[string]string `json:"dtypes"`
	Error  string            `json:"error"`
}

// RankCommand is one rank of tryBackend.
func RankCommand() *cobra.Command {
	var dir, backend string
	cmd := &cobra.Command{
		Use:    "__doctor-rank",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := launch.DieWithParent(); err != nil {
				return err
			}
			world, err := launch.Detect(launch.Options{})
			if err != nil {
				return err
			}
			// Python may be stuck in a collective when the launcher says stop.
			stop := context.AfterFunc(cmd.Context(), func() { os.Exit(cli.ExitTerminated) })
			defer stop()
			var answer rankDTypes
			answer.DTypes, err = tryDTypes(cmd.Context(), world, backend, cli.PythonFlag(cmd))
			if err != nil {
				answer.Error = err.Error()
			}
			if err := cli.WriteJSON(cli.RankFileName(dir, world.Rank), answer); err != nil {
				return err
			}
			if answer.Error != "" {
				return &cli.ExitError{Code: cli.ExitFailed}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "", "where the answers go")
	cmd.Flags().StringVar(&backend, "backend", "gloo", "the backend to try")
	return cmd
}

func tryDTypes(ctx context.Context, world launch.World, backend, python string) (map[string]string, error) {
	rt, err := cli.StartRuntime(ctx, python)
	if err != nil {
		return nil, err
	}
	if backend == "nccl" {
		cuda, err := rt.Import(ctx, "torch.cuda")
		if err != nil {
			return nil, err
		}
		defer cuda.Close()
		if _, err := cuda.CallValue("set_device", world.LocalRank); err != nil {
			return nil, err
		}
	}
	group, err := rt.InitProcessGroup(ctx, pyhook.GroupConfig{Backend: backend, Timeout: joinLimit})
	if err != nil {
		return nil, err
	}
	defer group.Close()
	dtypes, err := group.DTypes(ctx)
	if err != nil {
		return nil, err
	}
	if err := group.Barrier(ctx); err != nil { // nobody leaves while another still needs it
		return nil, err
	}
	return dtypes, rt.Close()
}
