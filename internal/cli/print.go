package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"pyhook/internal/report"
)

// Print writes what a command found to its standard output: as one JSON object, or by text, which
// also gets a printer of standard error.
func Print(cmd *cobra.Command, asJSON bool, found any, text func(out, stderr *report.Printer)) error {
	if !asJSON {
		text(report.New(cmd.OutOrStdout()), report.New(cmd.ErrOrStderr()))
		return nil
	}
	if err := report.JSON(cmd.OutOrStdout(), found); err != nil {
		return fmt.Errorf("printing the report: %w", err)
	}
	return nil
}
