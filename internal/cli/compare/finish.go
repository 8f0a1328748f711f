package compare

import (
	"errors"
	"fmt"

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
	if o.json {
		if err := report.JSON(cmd.OutOrStdout(), r); err != nil {
			return fmt.Errorf("printing the report: %w", err)
		}
	} else {
		printReport(report.New(cmd.OutOrStdout()), report.New(cmd.ErrOrStderr()), r, written)
	}
	if unwritten != nil {
		return unwritten
	}
	if !r.OK {
		return &cli.ExitError{Code: failureExit(r)}
	}
	return nil
}

// failureExit is the exit code of a comparison of which a hook failed.
func failureExit(r *compare.Report) int {
	code := cli.ExitFailed
	for _, h := range r.Hooks {
		if h.Failure == nil {
			continue
		}
		switch h.Failure.Code {
		case codeDied:
			code = cli.ExitRankDied
		case codeNoPython:
			return cli.ExitNoPython
		}
	}
	return code
}
