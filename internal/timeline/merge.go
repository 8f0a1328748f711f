package timeline

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
)

// merge writes one trace of the traces of several ranks.
func merge(w io.Writer, files ...io.Reader) error {
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

// MergeToFile writes one trace of the traces of several ranks to a file, whole or not at all, and
// creates its folder.
func MergeToFile(path string, files ...io.Reader) error {
	return writeFile(path, func(w io.Writer) error { return merge(w, files...) })
}
