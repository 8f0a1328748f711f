// Package page writes a comparison as one page of HTML: tables and charts that show their values under
// the pointer. The chart library (ATTRIBUTION.md) is inside the page, which loads nothing.
package page

import (
	"bytes"
	"compress/gzip"
	_ "embed"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"os"
	"path/filepath"
	"strings"

	"pyhook/internal/compare"
	"pyhook/internal/wholefile"
)

//go:embed chart.umd.min.js.gz
var chartLibrary []byte

//go:embed ATTRIBUTION.md
var attribution string

//go:embed page.html
var pageText string

//go:embed page.js
var script string

// WriteFile writes the page to a file, whose folder it makes. The file appears whole or not at all; a link
// stays one, and a device or a pipe is written to.
func WriteFile(path string, r *compare.Report) error {
	fail := func(err error) error { return fmt.Errorf("writing the page %s: %w", path, err) }
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		return fail(err)
	}
	var text bytes.Buffer
	if err := Write(&text, r); err != nil {
		return fail(err)
	}
	target := path
	if resolved, err := filepath.EvalSymlinks(path); err == nil {
		target = resolved
	}
	if info, err := os.Stat(target); err == nil && !info.Mode().IsRegular() {
		if err := os.WriteFile(target, text.Bytes(), 0o666); err != nil {
			return fail(err)
		}
		return nil
	}
	if err := wholefile.Write(target, wholefile.Public, func(w io.Writer) error { _, err := text.WriteTo(w); return err }); err != nil {
		return fail(err)
	}
	return nil
}

// Write writes the page.
func Write(w io.Writer, r *compare.Report) error {
	unzipped, err := gzip.NewReader(bytes.NewReader(chartLibrary))
	if err != nil {
		return err
	}
	library, err := io.ReadAll(unzipped)
	if err != nil {
		return err
	}
	report, err := json.Marshal(r) // escapes what would end the script: <, >, &
	if err != nil {
		return err
	}
	_, licence, _ := strings.Cut(attribution, "with its licence:\n\n")
	// html/template would do, but text/template below it costs the command 6 MB: calls of methods by
	// name have the linker keep every method of every type.
	_, err = strings.NewReplacer("{{licence}}", html.EscapeString(licence), "{{library}}", string(library),
		"{{report}}", string(report), "{{script}}", script).WriteString(w, pageText)
	return err
}
