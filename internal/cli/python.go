package cli

import (
	"context"
	"os"

	"github.com/spf13/cobra"

	"pyhook/pyhook"
)

// PythonFlag is the interpreter that the user named, or "".
func PythonFlag(cmd *cobra.Command) string {
	python, _ := cmd.Flags().GetString("python") // it is the root's, so each command has it
	return python
}

// StartRuntime starts Python with the working directory on its path, as python
// itself does for a script there.
func StartRuntime(ctx context.Context, python string) (*pyhook.Runtime, error) {
	cwd, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	return pyhook.Start(ctx, pyhook.Config{Python: python, Path: []string{cwd}})
}
