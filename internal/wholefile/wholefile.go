// Package wholefile writes files that appear whole or not at all.
package wholefile

import (
	"errors"
	"io"
	"os"
	"path/filepath"
)

// Public is the mode of what other users may read, as torchrun's agent may be one; Private of what a
// hook's state may hold.
const (
	Public  os.FileMode = 0o644
	Private os.FileMode = 0o600
)

// Write has write fill another file in path's folder, which must be there, and renames that when it
// is on the disk.
func Write(path string, mode os.FileMode, write func(io.Writer) error) (err error) {
	file, err := os.CreateTemp(filepath.Dir(path), ".pyhook-*.tmp")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(file.Name())
		}
	}()
	// A rename that outlives a crash must not name an empty file.
	if err := errors.Join(write(file), file.Chmod(mode), file.Sync(), file.Close()); err != nil {
		return err
	}
	return os.Rename(file.Name(), path)
}
