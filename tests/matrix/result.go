package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// result is what an environment gave: a file of results/.
type result struct {
	Name     string   `json:"name"`
	Title    string   `json:"title"`
	Python   string   `json:"python,omitempty"`
	Torch    string   `json:"torch,omitempty"`
	Missing  string   `json:"missing,omitempty"` // why it could not be had
	Packages []tested `json:"packages,omitempty"`
}

// tested is a package's tests in an environment.
type tested struct {
	Package string   `json:"package"`
	Passed  int      `json:"passed"`
	Skipped []string `json:"skipped,omitempty"` // "TestX: why"
	Failed  []string `json:"failed,omitempty"`
}

func (r *result) failed() bool {
	return r.Missing != "" || slices.ContainsFunc(r.Packages, func(t tested) bool { return len(t.Failed) > 0 })
}

func (r *result) verdict() string {
	passed, failed := 0, 0
	for _, t := range r.Packages {
		passed += t.Passed
		failed += len(t.Failed)
	}
	if r.Missing != "" {
		return "not to be had: " + r.Missing
	}
	return fmt.Sprintf("%d passed, %d failed", passed, failed)
}

func (t tested) cell() string {
	switch {
	case len(t.Failed) > 0:
		return fmt.Sprintf("FAILED %s", strings.Join(t.Failed, ", "))
	case len(t.Skipped) > 0:
		return fmt.Sprintf("%d, %d skipped", t.Passed, len(t.Skipped))
	default:
		return fmt.Sprint(t.Passed)
	}
}

// merge puts r's packages in place of the same ones of the saved result, and keeps
// the others, which must be of the same Python and torch.
func (r *result) merge(root string) error {
	former := &result{}
	if err := readJSON(filepath.Join(root, resultsFolder, r.Name+".json"), former); err != nil {
		return fmt.Errorf("%s: run all of its packages first: %w", r.Name, err)
	}
	if r.Missing != "" || r.Python != former.Python || r.Torch != former.Torch {
		return fmt.Errorf("%s: was Python %s with torch %q, and is %s with %q %s: run all of its packages", r.Name, former.Python, former.Torch, r.Python, r.Torch, r.Missing)
	}
	for _, t := range former.Packages {
		if !slices.ContainsFunc(r.Packages, func(now tested) bool { return now.Package == t.Package }) {
			r.Packages = append(r.Packages, t)
		}
	}
	slices.SortFunc(r.Packages, func(a, b tested) int { return strings.Compare(a.Package, b.Package) })
	return nil
}

func (r *result) save(root string) error {
	data, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(root, resultsFolder), 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(root, resultsFolder, r.Name+".json"), append(data, '\n'), 0o644)
}

// event is a line of test2json.
type event struct {
	Action, Test, Output string
}

// count reads a package's events. Only tests at the top count: what is below one
// differs with the hooks that a torch has.
func count(events io.Reader, name string) (t tested, err error) {
	t.Package = name
	said := map[string]string{}
	lines := bufio.NewScanner(events)
	lines.Buffer(nil, 1<<24)
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return t, fmt.Errorf("%s: %w: %s", name, err, lines.Text())
		}
		top := !strings.Contains(e.Test, "/")
		switch {
		case e.Test == "" && e.Action == "fail" && len(t.Failed) == 0:
			t.Failed = append(t.Failed, "the package, outside any test")
		case e.Test == "" || !top:
		case e.Action == "output":
			said[e.Test] += e.Output
		case e.Action == "pass":
			t.Passed++
		case e.Action == "fail":
			t.Failed = append(t.Failed, e.Test)
		case e.Action == "skip":
			t.Skipped = append(t.Skipped, e.Test+": "+reason(said[e.Test]))
		}
	}
	return t, lines.Err()
}

// reason is what a skipped test said, without its position.
func reason(output string) string {
	for line := range strings.Lines(output) {
		if _, text, found := strings.Cut(line, "_test.go:"); found {
			_, text, _ = strings.Cut(text, ": ")
			return strings.TrimSpace(text)
		}
	}
	return "it did not say why"
}
