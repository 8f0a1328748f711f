package compare

import (
	"fmt"
	"os"
	"path/filepath"

	"pyhook/internal/cli"
)

// checkOutputs fails, before anything is measured, if --html or --plot cannot be written. It makes their
// folders.
func (o *options) checkOutputs() error {
	if o.plot != "" {
		if err := writable(o.plot); err != nil {
			return fmt.Errorf("--plot: %w", err)
		}
	}
	if o.html == "" {
		return nil
	}
	info, err := os.Stat(o.html)
	switch {
	case err == nil && info.IsDir():
		return cli.UsageError("--html %s: it is a folder; name a file", o.html)
	case err == nil && !info.Mode().IsRegular():
		return nil // a device or a pipe
	}
	if err := writable(filepath.Dir(o.html)); err != nil {
		return fmt.Errorf("--html: %w", err)
	}
	return nil
}

// writable makes a folder, and a file in it that it removes.
func writable(folder string) error {
	if err := os.MkdirAll(folder, 0o777); err != nil {
		return err
	}
	file, err := os.CreateTemp(folder, ".pyhook-")
	if err != nil {
		return err
	}
	file.Close()
	return os.Remove(file.Name())
}
