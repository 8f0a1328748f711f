package compare

import (
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
	var written []string
	if o.plot != "" && r.Constants != nil {
		files, err := plot.Write(o.plot, r)
		if err != nil {
			return err
		}
		written = append(written, files...)
	}
	if o.html != "" {
		if err := page.WriteFile(o.html, r); err != nil {
			return err
		}
		written = append(written, o.html)
	}
	if o.json {
		if err := report.JSON(cmd.OutOrStdout(), r); err != nil {
			return fmt.Errorf("printing the report: %w", err)
		}
	} else {
		printReport(report.New(cmd.OutOrStdout()), report.New(cmd.ErrOrStderr()), r, written)
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
