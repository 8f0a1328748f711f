// Package wholefile writes files that appear whole or not at all.
package wholefile

import (
	"errors"
	"io"
	"os"
	"path/filepath"
)

// Write has write fill another file in path's folder, which must be there, and renames that when it
// is on the disk.
func Write(path string, write func(io.Writer) error) (err error) {
	file, err := os.CreateTemp(filepath.Dir(path), ".pyhook-*.tmp")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(file.Name())
		}
	}()
	// CreateTemp makes the file private, and who reads it, as torchrun's agent does, may be another
	// user. A rename that outlives a crash must not name an empty file.
	if err := errors.Join(write(file), file.Chmod(0o644), file.Sync(), file.Close()); err != nil {
		return err
	}
	return os.Rename(file.Name(), path)
}
