package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const (
	resultsFolder = "tests/matrix/results"
	hooksFolder   = "tests/parity/results"
	pagePath      = "docs/compatibility.md"
)

const pageHead = `# Compatibility

Written by ` + "`make matrix`" + `, not by hand: one build of the tests and of the command, made on the oldest
of these systems, run unchanged in each. A number is the tests that passed, when that environment was
last run; *not run*: the package is newer than that.

`

const hooksHead = `
## Hooks

Each of PyTorch's own hooks, held against PyTorch's Reducer bit by bit on that torch, by ` + "`tests/parity`" + `.
*equal*: the same bits. *right*: PyTorch's Reducer gives wrong gradients, Go those that the hook computes.
*upstream fails*: PyTorch itself cannot run it there; from Go it is the same error, typed.
*no such hook*: a later torch has it. [docs/hooks.md](hooks.md) has each error's text.

`

// writePage writes what results/ holds; an environment that never ran is an error.
func writePage(root string) error {
	page, err := render(root)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(root, pagePath), []byte(page), 0o644)
}

func render(root string) (string, error) {
	var columns []*result
	for _, e := range environments {
		r := &result{}
		if err := readJSON(filepath.Join(root, resultsFolder, e.Name+".json"), r); err != nil {
			return "", fmt.Errorf("%s has no result yet: run all: %w", e.Name, err)
		}
		r.Packages = slices.DeleteFunc(r.Packages, func(t tested) bool { return gone(root, t.Package) })
		columns = append(columns, r)
	}
	var page strings.Builder
	page.WriteString(pageHead)
	writePackages(&page, columns)
	writeSkipped(&page, columns)
	page.WriteString(hooksHead)
	err := writeHooks(&page, root, columns)
	return page.String(), err
}

// gone reports whether the clone no longer has a package.
func gone(root, name string) bool {
	_, err := os.Stat(filepath.Join(root, strings.TrimPrefix(name, "pyhook/")))
	return err != nil
}

func readJSON(path string, into any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return json.Unmarshal(data, into)
}

// writePackages has a column for each environment.
func writePackages(page *strings.Builder, columns []*result) {
	var rows [][]string
	row := func(name string, cell func(*result) string) {
		cells := []string{name}
		for _, c := range columns {
			cells = append(cells, cell(c))
		}
		rows = append(rows, cells)
	}
	row("package", func(c *result) string { return c.Title })
	row("Python", func(c *result) string {
		if c.Missing != "" {
			return "not to be had: " + c.Missing
		}
		return c.Python
	})
	row("torch", func(c *result) string {
		if c.Torch == "" {
			return "none"
		}
		return c.Torch
	})
	for _, name := range packageNames(columns) {
		row("`"+strings.TrimPrefix(name, "pyhook/")+"`", func(c *result) string { return c.cell(name) })
	}
	writeTable(page, rows)
}

// writeTable writes a Markdown table. The first row is its head.
func writeTable(page *strings.Builder, rows [][]string) {
	for i, row := range rows {
		fmt.Fprintf(page, "| %s |\n", strings.Join(row, " | "))
		if i == 0 {
			page.WriteString(strings.Repeat("|---", len(row)) + "|\n")
		}
	}
}

func packageNames(columns []*result) []string {
	names := map[string]bool{}
	for _, c := range columns {
		for _, t := range c.Packages {
			names[t.Package] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}

func (r *result) cell(name string) string {
	for _, t := range r.Packages {
		if t.Package == name {
			return t.cell()
		}
	}
	if r.Missing != "" {
		return "-"
	}
	if r.Torch != "" {
		return "not run"
	}
	return "needs torch"
}

func writeSkipped(page *strings.Builder, columns []*result) {
	reasons := map[string][]string{}
	for _, c := range columns {
		for _, t := range c.Packages {
			for _, test := range t.Skipped {
				key := strings.TrimPrefix(t.Package, "pyhook/") + ": " + test
				reasons[key] = append(reasons[key], c.Title)
			}
		}
	}
	if len(reasons) == 0 {
		return
	}
	page.WriteString("\nSkipped, and why:\n\n")
	for _, key := range slices.Sorted(maps.Keys(reasons)) {
		where := strings.Join(reasons[key], ", ")
		if len(reasons[key]) == len(columns) {
			where = "everywhere"
		}
		fmt.Fprintf(page, "- %s (%s)\n", key, where)
	}
}

// hooks is a file of tests/parity/results.
type hooks struct {
	Torch string `json:"torch"`
	Cases map[string]struct {
		Outcome string `json:"outcome"`
	} `json:"cases"`
}

func writeHooks(page *strings.Builder, root string, columns []*result) error {
	byTorch, err := readHooks(root)
	if err != nil {
		return err
	}
	var tested []hooks
	cases := map[string]bool{}
	for _, c := range columns {
		h, found := byTorch[c.Torch]
		if c.Torch == "" {
			continue
		}
		if !found {
			return fmt.Errorf("%s has no file for torch %s: its tests/parity failed", hooksFolder, c.Torch)
		}
		tested = append(tested, h)
		for name := range h.Cases {
			cases[name] = true
		}
	}
	head := []string{"case"}
	for _, h := range tested {
		head = append(head, "torch "+h.Torch)
	}
	rows := [][]string{head}
	words := map[string]string{"equal": "equal", "serial": "equal", "right": "right", "fails": "upstream fails", "absent": "no such hook"}
	for _, name := range slices.Sorted(maps.Keys(cases)) {
		row := []string{"`" + name + "`"}
		for _, h := range tested {
			word := words[h.Cases[name].Outcome]
			if word == "" {
				return fmt.Errorf("no outcome of %s on torch %s", name, h.Torch)
			}
			row = append(row, word)
		}
		rows = append(rows, row)
	}
	writeTable(page, rows)
	return nil
}

func readHooks(root string) (map[string]hooks, error) {
	files, err := filepath.Glob(filepath.Join(root, hooksFolder, "*.json"))
	if err != nil {
		return nil, err
	}
	all := map[string]hooks{}
	for _, file := range files {
		var h hooks
		if err := readJSON(file, &h); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		all[h.Torch] = h
	}
	return all, nil
}
