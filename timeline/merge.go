package timeline

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
)

// Merge puts trace files of several ranks into one.
func Merge(w io.Writer, files ...io.Reader) error {
	all := document{DisplayTimeUnit: "ms", OtherData: map[string]any{}}
	for i, file := range files {
		var d document
		if err := json.NewDecoder(file).Decode(&d); err != nil {
			return fmt.Errorf("timeline: trace %d of %d: %w", i, len(files), err)
		}
		all.TraceEvents = append(all.TraceEvents, d.TraceEvents...)
		maps.Copy(all.OtherData, d.OtherData)
	}
	_, err := all.write(w)
	return err
}

// MergeToFile is Merge into a file, as Recorder.WriteFile writes it.
func MergeToFile(path string, files ...io.Reader) error {
	return writeFile(path, func(w io.Writer) error { return Merge(w, files...) })
}
