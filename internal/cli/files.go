package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"pyhook/internal/wholefile"
)

// rankFile is where a rank writes its answer.
func rankFile(dir string, rank int) string {
	return filepath.Join(dir, fmt.Sprintf("rank-%d.json", rank))
}

// ReadJSON reads a file that WriteJSON wrote.
func ReadJSON(path string, into any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	return nil
}

// WriteJSON makes the file whole or not at all.
func WriteJSON(path string, value any) error {
	return wholefile.Write(path, wholefile.Public, func(w io.Writer) error { return json.NewEncoder(w).Encode(value) })
}
