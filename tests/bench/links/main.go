// Command links says how good the predictions of pyhook compare are: it has compare, on as many
// ranks without a network, predict the time of hooks on slow links, and measures it there, on links that tc shapes
// between network namespaces.
//
//	make bench-links              # as root; or: sudo -E go run ./tests/bench/links
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"

	"pyhook/internal/compare"
	"pyhook/internal/report"
)

// hooks are compared; the last one is a file beside this one.
var hooks = []string{"allreduce", "fp16", "powersgd,matrix_approximation_rank=4", "tests/bench/links/hooks.py:top_k,state=tests/bench/links/hooks.py:TopK,share=0.01"}

// Row is one hook on one link.
type Row struct {
	Hook      string  `json:"hook"`
	Network   string  `json:"network"`
	Ranks     int     `json:"ranks"`
	Predicted float64 `json:"predicted_seconds"`
	Measured  float64 `json:"measured_seconds"`
	// Hook is the part of each that is the hook's own work, which no network changes.
	PredictedHook float64 `json:"predicted_hook_seconds"`
	MeasuredHook  float64 `json:"measured_hook_seconds"`
}

// off is the prediction's error, relative to what was measured.
func (r *Row) off() float64 { return r.Predicted/r.Measured - 1 }

type flags struct {
	command, model, nets, ranks string
	steps                       int
}

func main() {
	var f flags
	flag.StringVar(&f.command, "command", "bin/pyhook", "the command")
	flag.StringVar(&f.model, "model", "tests/bench/links/model.json", "the model")
	flag.StringVar(&f.nets, "net", "100Mbit,300Mbit,1Gbit", "links")
	flag.StringVar(&f.ranks, "ranks", "2,3,4", "ranks")
	flag.IntVar(&f.steps, "steps", 10, "steps")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := f.run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench-links:", err)
		os.Exit(1)
	}
}

func (f *flags) run(ctx context.Context) error {
	if os.Geteuid() != 0 {
		return errors.New("network namespaces take root")
	}
	var predicted *compare.Report
	var rows []Row
	for _, net := range strings.Split(f.nets, ",") {
		network, err := compare.ParseNetwork(net, 0)
		if err != nil {
			return err
		}
		for _, text := range strings.Split(f.ranks, ",") {
			ranks, err := strconv.Atoi(text)
			if err != nil {
				return err
			}
			// Anew each time, so that both see the same machine, which others may be using, and with as
			// many ranks, which share its cores.
			if predicted, err = f.compare(ctx, nil, "-n", text, "--ranks", text, "--net", net, "--latency", "0s"); err != nil {
				return err
			}
			measured, err := f.measure(ctx, network, ranks)
			if err != nil {
				return fmt.Errorf("%d ranks on %s: %w", ranks, network.Name, err)
			}
			for i, h := range measured.Hooks {
				for _, p := range predicted.Hooks[i].Predicted {
					if p.Network == network.Name && p.Ranks == ranks {
						rows = append(rows, Row{h.Hook, p.Network, ranks, p.Seconds, h.Seconds, p.Seconds - p.CollectiveSeconds, h.HookSeconds})
						fmt.Fprintf(os.Stderr, "%s, %d ranks, %s: predicted %s ms, measured %s ms\n", p.Network, ranks, h.Hook, ms(p.Seconds), ms(h.Seconds))
					}
				}
			}
		}
	}
	print(predicted, rows)
	return write("out/bench/links.json", rows)
}

// measure runs the hooks on links of their own.
func (f *flags) measure(ctx context.Context, network compare.Network, ranks int) (*compare.Report, error) {
	links, err := newLinks(ctx, network, ranks)
	defer links.close()
	if err != nil {
		return nil, err
	}
	others := make(chan error, ranks)
	for rank := 1; rank < ranks; rank++ {
		go func() {
			_, err := f.compare(ctx, links.on(rank))
			others <- err
		}()
	}
	measured, err := f.compare(ctx, links.on(0))
	for range ranks - 1 {
		err = errors.Join(err, <-others)
	}
	return measured, err
}

// compare runs the command, behind a prefix such as ip netns exec, and reads its report: rank 0's.
func (f *flags) compare(ctx context.Context, prefix []string, more ...string) (*compare.Report, error) {
	args := append(append([]string{}, prefix...), f.command, "compare", "--json", "--model", f.model, "--steps", strconv.Itoa(f.steps))
	args = append(append(args, more...), hooks...)
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, out)
	}
	r := &compare.Report{}
	if len(out) == 0 {
		return nil, nil // not rank 0
	}
	return r, json.Unmarshal(out, r)
}

func print(predicted *compare.Report, rows []Row) {
	fmt.Printf("\n%s, %d elements; torch %s, Python %s; milliseconds a step\n\n", predicted.Model, predicted.Elements, predicted.Torch, predicted.Python)
	cells := [][]report.Cell{report.Row("off", "predicted", "measured", "of it the hook's, predicted", "measured", "ranks", "link", "hook")}
	worst, within := 0.0, 0
	for _, r := range rows {
		worst = max(worst, math.Abs(r.off()))
		if math.Abs(r.off()) <= 0.15 {
			within++
		}
		cells = append(cells, report.Row(fmt.Sprintf("%+.0f %%", 100*r.off()), ms(r.Predicted), ms(r.Measured), ms(r.PredictedHook), ms(r.MeasuredHook),
			fmt.Sprint(r.Ranks), r.Network, r.Hook))
	}
	report.New(os.Stdout).Table("", report.AlignRight, cells)
	fmt.Printf("\n%d of %d within 15 %%; worst %.0f %%\n", within, len(rows), 100*worst)
}

func ms(seconds float64) string { return fmt.Sprintf("%.1f", seconds*1000) }

func write(path string, rows []Row) error {
	text, err := json.MarshalIndent(rows, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o666)
}
