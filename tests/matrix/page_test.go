package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const events = `{"Action":"run","Test":"TestA"}
{"Action":"output","Test":"TestA","Output":"=== RUN   TestA\n"}
{"Action":"pass","Test":"TestA/sub"}
{"Action":"pass","Test":"TestA"}
{"Action":"output","Test":"TestB","Output":"    b_test.go:7: no GPU: none here\n"}
{"Action":"skip","Test":"TestB"}
{"Action":"skip","Test":"TestSilent"}
{"Action":"fail","Test":"TestC/sub"}
{"Action":"fail","Test":"TestC"}
{"Action":"fail"}
`

func TestEventsAreCounted(t *testing.T) {
	got, err := count(strings.NewReader(events), "pyhook/x")
	require.NoError(t, err)
	assert.Equal(t, tested{Package: "pyhook/x", Passed: 1, Failed: []string{"TestC"},
		Skipped: []string{"TestB: no GPU: none here", "TestSilent: it did not say why"}}, got)

	got, err = count(strings.NewReader(`{"Action":"pass","Test":"TestA"}`+"\n"+`{"Action":"fail"}`+"\n"), "pyhook/x")
	require.NoError(t, err)
	assert.Equal(t, []string{"the package, outside any test"}, got.Failed)

	_, err = count(strings.NewReader("panic: not an event\n"), "pyhook/x")
	assert.ErrorContains(t, err, "panic: not an event")
}

// clone is a folder with the results of all environments and of two torches.
func clone(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	for _, folder := range []string{"cbridge", "ddp", "job"} {
		require.NoError(t, os.Mkdir(filepath.Join(root, folder), 0o755))
	}
	for i, e := range environments {
		r := &result{Name: e.Name, Title: e.Title, Python: "3.11.2", Packages: []tested{{Package: "pyhook/cbridge", Passed: 3}}}
		if e.Torch {
			r.Torch = []string{"1.13.0", "2.6.0"}[i%2]
			r.Packages = append(r.Packages, tested{Package: "pyhook/ddp", Passed: 5, Skipped: []string{"TestGPU: no GPU"}})
		}
		require.NoError(t, r.save(root))
	}
	require.NoError(t, os.MkdirAll(filepath.Join(root, hooksFolder), 0o755))
	hooksOf(t, root, "1.13.0", map[string]string{"allreduce": "equal", "bf16": "fails", "new": "absent"})
	hooksOf(t, root, "2.6.0", map[string]string{"allreduce": "serial", "bf16": "right", "new": "equal"})
	return root
}

func hooksOf(t *testing.T, root, torch string, outcomes map[string]string) {
	t.Helper()
	cases := map[string]map[string]string{}
	for name, outcome := range outcomes {
		cases[name] = map[string]string{"outcome": outcome}
	}
	data, err := json.Marshal(map[string]any{"torch": torch, "cases": cases})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(root, hooksFolder, torch+".json"), data, 0o644))
}

func TestThePageHasEveryCell(t *testing.T) {
	root := clone(t)
	require.NoError(t, os.Mkdir(filepath.Join(root, "docs"), 0o755))
	require.NoError(t, writePage(root))
	page, err := os.ReadFile(filepath.Join(root, pagePath))
	require.NoError(t, err)
	for _, line := range []string{
		"| package | Debian 12 | Debian 13 | Debian sid | the newest torch of PyPI | CPython 3.9 | CPython 3.10 | CPython 3.12 | CPython 3.15 |",
		"| Python |" + strings.Repeat(" 3.11.2 |", 8),
		"| torch | 1.13.0 | 2.6.0 | 1.13.0 | 2.6.0 | none | none | none | none |",
		"| `cbridge` |" + strings.Repeat(" 3 |", 8),
		"| `ddp` |" + strings.Repeat(" 5, 1 skipped |", 4) + strings.Repeat(" needs torch |", 4),
		"- ddp: TestGPU: no GPU (Debian 12, Debian 13, Debian sid, the newest torch of PyPI)",
		"| `allreduce` | equal | equal | equal | equal |",
		"| `bf16` | upstream fails | right | upstream fails | right |",
		"| `new` | no such hook | equal | no such hook | equal |",
	} {
		assert.Contains(t, string(page), line+"\n")
	}
	for line := range strings.Lines(string(page)) {
		assert.NotContains(t, strings.ReplaceAll(line, " ", ""), "||", "no cell is blank")
	}
}

func TestAFailureAndWhatCannotBeHadAreOnThePage(t *testing.T) {
	root := clone(t)
	r := &result{}
	path := filepath.Join(root, resultsFolder, "trixie.json")
	require.NoError(t, readJSON(path, r))
	require.False(t, r.failed())
	r.Packages[1].Failed = []string{"TestX"}
	r.Packages = append(r.Packages, tested{Package: "pyhook/job", Passed: 2}, tested{Package: "pyhook/former", Passed: 2})
	require.NoError(t, r.save(root))
	assert.True(t, r.failed())
	assert.Equal(t, "12 passed, 1 failed", r.verdict())
	missing := &result{Name: "3.9", Title: "CPython 3.9", Missing: "no pyenv"}
	require.NoError(t, missing.save(root))
	assert.True(t, missing.failed())
	page, err := render(root)
	require.NoError(t, err)
	assert.Contains(t, page, "| `ddp` | 5, 1 skipped | FAILED TestX | 5, 1 skipped | 5, 1 skipped | - | needs torch |")
	assert.Contains(t, page, "| `job` | not run | 2 | not run | not run | - | needs torch |")
	assert.NotContains(t, page, "former")
	assert.Contains(t, page, "| not to be had: no pyenv | 3.11.2 |")
}

func TestAPageWithHolesIsNotWritten(t *testing.T) {
	root := clone(t)
	hooksOf(t, root, "2.6.0", map[string]string{"allreduce": "equal", "bf16": "right"})
	_, err := render(root)
	require.ErrorContains(t, err, "no outcome of new on torch 2.6.0")
	require.NoError(t, os.Remove(filepath.Join(root, hooksFolder, "2.6.0.json")))
	_, err = render(root)
	require.ErrorContains(t, err, "no file for torch 2.6.0")
	require.NoError(t, os.Remove(filepath.Join(root, resultsFolder, "sid.json")))
	_, err = render(root)
	require.ErrorContains(t, err, "sid has no result yet")
	assert.NoFileExists(t, filepath.Join(root, pagePath))
}

func TestSomePackagesLeaveWhatIsKnownOfTheOthers(t *testing.T) {
	root := clone(t)
	again := &result{Name: "sid", Title: "Debian sid", Python: "3.11.2", Torch: "1.13.0", Packages: []tested{
		{Package: "pyhook/ddp", Passed: 6}, {Package: "pyhook/worker", Passed: 1}}}
	require.NoError(t, again.merge(root))
	assert.Equal(t, []tested{{Package: "pyhook/cbridge", Passed: 3}, {Package: "pyhook/ddp", Passed: 6}, {Package: "pyhook/worker", Passed: 1}}, again.Packages)
	other := &result{Name: "sid", Python: "3.11.2", Torch: "2.15"}
	assert.ErrorContains(t, other.merge(root), `was Python 3.11.2 with torch "1.13.0", and is 3.11.2 with "2.15"`)
	assert.ErrorContains(t, (&result{Name: "none"}).merge(root), "run all of its packages first")
}
