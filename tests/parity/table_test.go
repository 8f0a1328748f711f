package parity

import (
	"bytes"
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write this torch's column of docs/hooks.md, and results/")

const (
	outcomeEqual  = "equal"  // bitwise what PyTorch's Reducer gives
	outcomeSerial = "serial" // the same, but PyTorch has to be made to wait
	outcomeRight  = "right"  // bitwise what the hook itself gives; the Reducer misreads it
	outcomeFails  = "fails"  // PyTorch cannot run it
	outcomeAbsent = "absent" // this torch has no such hook
)

// entry is one cell of the table.
type entry struct {
	Outcome  string `json:"outcome"`
	Upstream string `json:"upstream,omitempty"` // what PyTorch does instead
	Go       string `json:"go,omitempty"`       // what Go does then
}

// column is a file of results/.
type column struct {
	Torch string           `json:"torch"`
	Cases map[string]entry `json:"cases"`
}

var docs = filepath.Join("..", "..", "docs", "hooks.md")

const (
	tableBegins = "<!-- table: written by go test ./tests/parity -update -->\n"
	tableEnds   = "<!-- end of table -->\n"
)

func resultFile(torch string) string {
	return filepath.Join("results", regexp.MustCompile(`[^\w.+-]`).ReplaceAllString(torch, "_")+".json")
}

// checkOrUpdate holds what was just found against what is committed for this
// torch, or commits it.
func checkOrUpdate(t *testing.T, torch string, found map[string]entry, cases []hookCase) {
	file := resultFile(torch)
	if *update {
		var data bytes.Buffer
		encoder := json.NewEncoder(&data)
		encoder.SetEscapeHTML(false) // people read it
		encoder.SetIndent("", " ")
		require.NoError(t, encoder.Encode(column{torch, found}))
		require.NoError(t, os.WriteFile(file, data.Bytes(), 0o644))
		page, err := os.ReadFile(docs)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(docs, []byte(withTable(t, string(page), render(cases, columns(t)))), 0o644))
		return
	}
	data, err := os.ReadFile(file)
	if os.IsNotExist(err) {
		t.Skipf("no results for torch %s are kept: go test ./tests/parity -update adds its column", torch)
	}
	require.NoError(t, err)
	var kept column
	require.NoError(t, json.Unmarshal(data, &kept))
	for name := range kept.Cases {
		assert.Contains(t, found, name, "in %s, but no case", file)
	}
	for name, entry := range found {
		assert.Equal(t, kept.Cases[name], entry, "%s in %s: update it by go test ./tests/parity -update", name, file)
	}
}

func TestTheTableInTheDocsShowsTheResultsThatAreKept(t *testing.T) {
	if *update {
		t.Skip("it is being written")
	}
	cases, _ := loadCases(t)
	page, err := os.ReadFile(docs)
	require.NoError(t, err)
	assert.Equal(t, withTable(t, string(page), render(cases, columns(t))), string(page), "update it by go test ./tests/parity -update")
}

// columns reads results/, oldest torch first.
func columns(t *testing.T) []column {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("results", "*.json"))
	require.NoError(t, err)
	var all []column
	for _, file := range files {
		data, err := os.ReadFile(file)
		require.NoError(t, err)
		var c column
		require.NoError(t, json.Unmarshal(data, &c))
		all = append(all, c)
	}
	slices.SortFunc(all, func(a, b column) int {
		return cmp.Or(slices.Compare(numbers(a.Torch), numbers(b.Torch)), strings.Compare(a.Torch, b.Torch))
	})
	return all
}

func numbers(version string) (list []int) {
	release, _, _ := strings.Cut(version, "+")
	for _, digits := range regexp.MustCompile(`\d+`).FindAllString(release, -1) {
		n, _ := strconv.Atoi(digits)
		list = append(list, n)
	}
	return list
}

func withTable(t *testing.T, page, table string) string {
	t.Helper()
	before, rest, found := strings.Cut(page, tableBegins)
	require.True(t, found, "%s lacks %q", docs, tableBegins)
	_, after, found := strings.Cut(rest, tableEnds)
	require.True(t, found, "%s lacks %q", docs, tableEnds)
	return before + tableBegins + table + tableEnds + after
}

// render makes the table and the notes below it.
func render(cases []hookCase, columns []column) string {
	rows := slices.Clone(cases)
	slices.SortFunc(rows, func(a, b hookCase) int {
		return cmp.Or(strings.Compare(strings.ToLower(a.title()), strings.ToLower(b.title())), strings.Compare(a.Name, b.Name))
	})
	var table strings.Builder
	table.WriteString("| hook | case |")
	for _, c := range columns {
		fmt.Fprintf(&table, " torch %s |", c.Torch)
	}
	table.WriteString("\n|---|---|" + strings.Repeat("---|", len(columns)) + "\n")
	var notes noteList
	for _, row := range rows {
		fmt.Fprintf(&table, "| %s | `%s` |", row.title(), row.Name)
		for _, c := range columns {
			table.WriteString(" " + notes.cell(c.Cases[row.Name]) + " |")
		}
		table.WriteString("\n")
	}
	table.WriteString("\n")
	for i, note := range notes {
		fmt.Fprintf(&table, "%d. %s\n", i+1, note)
	}
	return table.String()
}

// noteList is the notes below the table, each once.
type noteList []string

func (n *noteList) cell(e entry) string {
	words := map[string]string{outcomeEqual: "equal", outcomeSerial: "equal", outcomeRight: "right", outcomeFails: "upstream fails"}[e.Outcome]
	var note string
	switch e.Outcome {
	case "":
		return "-"
	case outcomeEqual:
		return words
	case outcomeAbsent:
		return "no such hook"
	case outcomeSerial:
		note = "PyTorch itself " + e.Upstream + ". From Go the buckets go one after another, and the result is bitwise that of PyTorch's Reducer when it is made to wait likewise."
	case outcomeRight:
		note = "PyTorch runs, and its gradients are wrong: " + e.Upstream + ". From Go they are bitwise what the hook itself computes."
	case outcomeFails:
		quote := "`"
		if strings.Contains(e.Upstream, quote) {
			quote = "``"
		}
		note = "PyTorch: " + quote + e.Upstream + quote + ". From Go: " + e.Go + "."
	}
	at := slices.Index(*n, note)
	if at < 0 {
		*n = append(*n, note)
		at = len(*n) - 1
	}
	return fmt.Sprintf("%s (%d)", words, at+1)
}
