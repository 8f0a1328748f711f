package train

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"pyhook/internal/cli"
	"pyhook/internal/demo/trainer"
	"pyhook/launch"
)

// message is one line on a rank's stdout.
type message struct {
	Event  *trainer.Event  `json:"pyhook_event,omitempty"`
	Report *trainer.Report `json:"pyhook_report,omitempty"`
}

// spawn starts the ranks, shows their progress and returns rank 0's report.
func (o *Options) spawn(ctx context.Context, show *progress) (*trainer.Report, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	reader := &rankReader{show: show}
	cfg := launch.SpawnConfig{
		// torch's C++ talks of host names and connections.
		Command: append([]string{program}, o.arguments()...), N: o.Ranks, Stdout: reader, Stderr: reader,
		Env: append(cli.Quiet(os.Environ(), "TORCH_CPP_LOG_LEVEL=ERROR", "GLOO_LOG_LEVEL=ERROR"), cli.EventsVariable+"=1"),
	}
	if err := launch.Spawn(ctx, cfg); err != nil {
		return nil, err
	}
	if reader.report == nil {
		return nil, errors.New("rank 0 ended without a report")
	}
	return reader.report, nil
}

// arguments are the flags that make a rank of this run.
func (o *Options) arguments() []string {
	args := []string{"train", "--hook", o.Hook.Hook, "--epochs", strconv.Itoa(o.Epochs), "--batch", strconv.Itoa(o.Batch),
		"--lr", fmt.Sprint(o.LR), "--momentum", fmt.Sprint(o.Momentum), "--seed", fmt.Sprint(o.Seed),
		"--bucket-cap-mb", fmt.Sprint(o.BucketCapMB), "--order", o.Order.String(), "--backend", o.Backend, "--timeout", o.Timeout.String(),
		"--hidden", strings.Trim(strings.ReplaceAll(fmt.Sprint(o.Hidden), " ", ","), "[]")}
	optional := [][2]string{{"--state", o.Hook.State}, {"--save", o.Save}, {"--resume", o.Resume}, {"--trace", o.Trace}, {"--python", o.Python}}
	for _, arg := range o.Hook.StateArgs {
		optional = append(optional, [2]string{"--state-arg", arg})
	}
	if o.Hook.NCCLFutures {
		args = append(args, "--nccl-futures")
	}
	for _, flag := range optional {
		if flag[1] != "" {
			args = append(args, flag[0], flag[1])
		}
	}
	return args
}

// rankReader reads what the ranks print, each line behind "[rank 0] ". What is no message of ours
// is the hook's own printing.
type rankReader struct {
	show   *progress
	report *trainer.Report
}

func (r *rankReader) Write(line []byte) (int, error) {
	var m message
	if body, ok := bytes.CutPrefix(line, []byte(`[rank 0] {"pyhook_`)); !ok || json.Unmarshal(append([]byte(`{"pyhook_`), body...), &m) != nil {
		_ = r.show.Print(string(line)) // an error of stderr has no reader
		return len(line), nil
	}
	if m.Event != nil {
		r.show.step(*m.Event)
	}
	if m.Report != nil {
		r.report = m.Report
	}
	return len(line), nil
}

// sink is where a rank's progress goes.
type sink struct {
	parent bool
	out    *json.Encoder // to the parent; nil on ranks but 0
	show   *progress     // to the user
}

// eventSink also says which launcher the rank was found by: one that was taken
// for another shows in nothing but a hang.
func eventSink(world launch.World, hook string) *sink {
	s := &sink{parent: os.Getenv(cli.EventsVariable) != ""}
	switch {
	case world.Rank != 0:
	case s.parent:
		s.out = json.NewEncoder(os.Stdout)
	default:
		fmt.Fprintln(os.Stderr, world)
		s.show = newProgress(os.Stderr, hook)
	}
	return s
}

func (s *sink) step(e trainer.Event) {
	if s.out != nil {
		_ = s.out.Encode(message{Event: &e})
	}
	if s.show != nil {
		s.show.step(e)
	}
}

func (s *sink) report(r *trainer.Report) error {
	if s.out == nil {
		return nil
	}
	return s.out.Encode(message{Report: r})
}

func (s *sink) close() {
	if s.show != nil {
		s.show.Clear()
		s.show = nil
	}
}
