package compare

import (
	"errors"

	"github.com/spf13/cobra"

	"pyhook/internal/cli"
	"pyhook/internal/compare"
	"pyhook/internal/compare/page"
	"pyhook/internal/compare/plot"
	"pyhook/internal/report"
)

// finishReport predicts, writes what was asked for and gives the exit code.
func (o *options) finishReport(cmd *cobra.Command, r *compare.Report, buckets [][]compare.BucketCost) error {
	r.Predict(buckets, o.ranks)
	r.OK = true
	for _, h := range r.Hooks {
		r.OK = r.OK && h.Failure == nil
	}
	// What was measured is printed also if it cannot be drawn.
	var written []string
	var unwritten error
	if o.plot != "" && r.Constants != nil {
		written, unwritten = plot.Write(o.plot, r)
	}
	if o.html != "" {
		if err := page.WriteFile(o.html, r); err != nil {
			unwritten = errors.Join(unwritten, err)
		} else {
			written = append(written, o.html)
		}
	}
	if err := cli.Print(cmd, o.json, r, func(out, failures *report.Printer) { printReport(out, failures, r, written) }); err != nil {
		return err
	}
	if unwritten != nil {
		return unwritten
	}
	return cli.Exit(exitCode(r))
}

// exitCode is that of a comparison: a hook may have failed.
func exitCode(r *compare.Report) int {
	code := cli.ExitOK
	for _, h := range r.Hooks {
		switch {
		case h.Failure == nil:
		case h.Failure.Code == codeNoPython:
			return cli.ExitNoPython
		case h.Failure.Code == codeDied:
			code = cli.ExitRankDied
		case code == cli.ExitOK:
			code = cli.ExitFailed
		}
	}
	return code
}
