package cli

import "github.com/spf13/cobra"

// One is cobra.ExactArgs(1) with an error that says what a command takes.
func One(takes string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != 1 {
			return UsageError("%s takes one %s, and got %d", cmd.Name(), takes, len(args))
		}
		return nil
	}
}
