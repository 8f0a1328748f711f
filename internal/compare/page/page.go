// Package page writes a comparison as one page of HTML: tables and charts that show their values under
// the pointer. The chart library (ATTRIBUTION.md) is inside the page, which loads nothing.
package page

import (
	"bytes"
	"compress/gzip"
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"os"
	"path/filepath"
	"strings"

	"pyhook/internal/compare"
)

//go:embed chart.umd.min.js.gz
var chartLibrary []byte

//go:embed ATTRIBUTION.md
var attribution string

//go:embed page.html
var pageText string

//go:embed page.js
var script string

// WriteFile writes the page to a file, whose folder it makes. The file appears whole or not at all.
func WriteFile(path string, r *compare.Report) error {
	fail := func(err error) error { return fmt.Errorf("writing the page %s: %w", path, err) }
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		return fail(err)
	}
	var text bytes.Buffer
	if err := Write(&text, r); err != nil {
		return fail(err)
	}
	if err := os.WriteFile(path+".tmp", text.Bytes(), 0o666); err != nil {
		return fail(err)
	}
	if err := os.Rename(path+".tmp", path); err != nil {
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
	t, err := template.New("page").Parse(pageText)
	if err != nil {
		return err
	}
	_, licence, _ := strings.Cut(attribution, "with its licence:\n\n")
	return t.Execute(w, struct {
		Report  *compare.Report
		Library template.JS
		Script  template.JS
		Licence string
	}{r, template.JS(library), template.JS(script), licence})
}
