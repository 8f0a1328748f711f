package doctor

import (
	"bytes"
	"context"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"pyhook/internal/cli"
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
	limited, cancel := context.WithTimeout(ctx, backendLimit)
	defer cancel()
	b.Tried = true
	var output bytes.Buffer
	ranks, err := cli.SpawnPlan(limited, "diagnosis", b.Ranks, backendPlan{name}, rankCommand, r.Python.Executable, &output, nil)
	var answer rankDTypes
	if err == nil {
		defer ranks.Close()
		answer, err = answerOf(ranks, b.Ranks)
	}
	if err := cli.Stopped(ctx, "diagnosis"); err != nil {
		return err
	}
	switch {
	case err == nil && answer.Error == "":
		b.DTypes = answer.DTypes
		r.checkHalf(name, b.DTypes)
		return nil
	case err == nil:
		b.Error = answer.Error
	default:
		b.Error = strings.TrimSpace(strings.TrimPrefix(err.Error(), "launch: ") + "\n" + lastLines(output.String(), 8))
	}
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

// answerOf is the answer of the first rank that says what is wrong, or else rank 0's. The error is
// how a rank ended without one.
func answerOf(ran *cli.Ranks, n int) (answer rankDTypes, err error) {
	for rank := range n {
		var one rankDTypes
		if ran.Read(rank, &one) == nil && one.Error != "" {
			return one, nil
		}
	}
	if ran.Failed != nil {
		return answer, ran.Failed
	}
	return answer, ran.Read(0, &answer)
}

const rankCommand = "__doctor-rank"

// backendPlan is what the ranks are started with.
type backendPlan struct{ Backend string }

// rankDTypes is a rank's answer.
type rankDTypes struct {
	DTypes map[string]string `json:"dtypes"`
	Error  string            `json:"error"`
}

// RankCommand is one rank of tryBackend.
func RankCommand() *cobra.Command {
	return cli.RankCommand(rankCommand, func(ctx context.Context, r *cli.Rank, plan *backendPlan) (err error) {
		// Python may be stuck in a collective when the launcher says stop.
		stop := context.AfterFunc(ctx, func() { os.Exit(cli.ExitTerminated) })
		defer stop()
		var answer rankDTypes
		if answer.DTypes, err = tryDTypes(ctx, r, plan.Backend); err != nil {
			answer.Error = err.Error()
		}
		if err := r.Answer(answer); err != nil {
			return err
		}
		if answer.Error != "" {
			return cli.Exit(cli.ExitFailed)
		}
		return nil
	})
}

func tryDTypes(ctx context.Context, r *cli.Rank, backend string) (map[string]string, error) {
	rt, err := cli.StartRuntime(ctx, r.Python)
	if err != nil {
		return nil, err
	}
	if backend == "nccl" {
		cuda, err := rt.Import(ctx, "torch.cuda")
		if err != nil {
			return nil, err
		}
		defer cuda.Close()
		if _, err := cuda.CallValue("set_device", r.LocalRank); err != nil {
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
