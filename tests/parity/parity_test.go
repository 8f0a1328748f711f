package parity

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/cbridge"
	"pyhook/tests/ranks"
)

// racing is the case that PyTorch fails each time differently, or by chance
// not at all: collectives of callbacks, from several buckets at once. Go runs
// it as package ddp would, one bucket after another, and is held against
// PyTorch's Reducer made to wait likewise.
const racing = "powersgd_buckets_unserialised"

// comparison is what both sides made of all cases.
type comparison struct {
	root     string // reducer/, direct/ and go/, each with a folder for a case
	cases    []hookCase
	files    map[string]string
	torch    string
	failures expectations
	silent   expectations
	facts    facts
}

func TestPyTorchsHooksGiveFromGoWhatTheyGiveUnderPyTorchsReducer(t *testing.T) {
	hideGPUs(t)
	c := &comparison{root: t.TempDir(), failures: loadExpectations(t, "upstream_failures.json"),
		silent: loadExpectations(t, "upstream_silently_wrong.json")}
	c.cases, c.files = loadCases(t)
	python, _, err := cbridge.Discover(t.Context(), "", "torch")
	require.NoError(t, err)
	c.runPyTorch(t, python.Executable)
	c.runGo(t, python.Executable)

	results := map[string]entry{}
	for _, one := range c.cases {
		t.Run(one.Name, func(t *testing.T) {
			results[one.Name] = c.judge(t, one)
		})
	}
	t.Run("every hook that this torch ships is in a case", c.everyHookIsInACase)
	t.Run("a complex bucket is refused by name", c.complexBucketsAreRefused)
	if t.Failed() {
		return // nothing of this is to be kept
	}
	t.Run("docs and results are up to date", func(t *testing.T) {
		checkOrUpdate(t, c.torch, results, c.cases)
	})
}

// hideGPUs, from both sides: the question is what runs on the CPU, over gloo.
func hideGPUs(t *testing.T) {
	t.Setenv("CUDA_VISIBLE_DEVICES", "")
	t.Setenv("HIP_VISIBLE_DEVICES", "")
}

// runPyTorch runs the oracle on every case, with torch imported twice: the
// racing case may hang until its time is over, and does so on the side.
func (c *comparison) runPyTorch(t *testing.T, python string) {
	reducer := filepath.Join(c.root, "reducer")
	raced := make(chan error, 1)
	go func() { raced <- runOracle(python, reducer, "reducer", c.files[racing]) }()
	files := []string{c.serialTwin(t)}
	for name, file := range c.files {
		if name != racing {
			files = append(files, file)
		}
	}
	slices.Sort(files)
	require.NoError(t, runOracle(python, reducer, "reducer", files...))
	require.NoError(t, <-raced)

	v, _ := readVerdict(t, filepath.Join(reducer, c.cases[0].Name))
	c.torch = v.Torch
	var wrong []string
	for name := range c.silent {
		if _, listed := c.silent.of(name, c.torch); listed {
			wrong = append(wrong, c.files[name])
		}
	}
	if len(wrong) > 0 {
		require.NoError(t, runOracle(python, filepath.Join(c.root, "direct"), "direct", wrong...))
	}
}

// serialTwin writes the racing case with a wait after each bucket.
func (c *comparison) serialTwin(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile(c.files[racing])
	require.NoError(t, err)
	var twin map[string]any
	require.NoError(t, json.Unmarshal(data, &twin))
	twin["serial"] = true
	data, err = json.Marshal(twin)
	require.NoError(t, err)
	path := filepath.Join(c.root, racing+"_serial.json")
	require.NoError(t, os.WriteFile(path, data, 0o600))
	return path
}

// inputs is where the oracle dumped a case's inputs, and its results if it ran.
func (c *comparison) inputs(name string) string {
	if name == racing {
		name += "_serial"
	}
	return filepath.Join(c.root, "reducer", name)
}

func (c *comparison) out(name string) string { return filepath.Join(c.root, "go", name) }

// runGo runs the cases that PyTorch can run in one set of ranks, and those that
// it cannot in another.
func (c *comparison) runGo(t *testing.T, python string) {
	here, err := filepath.Abs(".")
	require.NoError(t, err)
	running := batch{Python: python, Path: []string{filepath.Join(here, "oracle"), filepath.Join(here, "testdata")}}
	failing := running
	// Ranks beyond a case's world skip it, so the largest worlds come first and
	// nobody waits for long.
	sorted := slices.Clone(c.cases)
	slices.SortStableFunc(sorted, func(a, b hookCase) int { return b.World - a.World })
	for _, one := range sorted {
		work := c.job(t, here, one)
		_, fails := c.failures.of(one.Name, c.torch)
		if fails && one.Name != racing {
			failing.Jobs = append(failing.Jobs, work)
			continue
		}
		running.Jobs = append(running.Jobs, work)
		if one.complex() {
			work.Name, work.Out, work.ComplexBuckets = work.Name+"_buffer", work.Out+"_buffer", true
			require.NoError(t, os.MkdirAll(work.Out, 0o700))
			failing.Jobs = append(failing.Jobs, work)
		}
	}
	options := ranks.Options{N: sorted[0].World, Case: "trials", Args: running, Timeout: 4 * time.Minute}
	done := ranks.RunOptions(t, options)
	c.facts = ranks.Result[facts](t, done, 0)
	require.Equal(t, c.torch, c.facts.Torch, "both sides must have one torch")
	options.N, options.Args = 2, failing
	ranks.RunOptions(t, options)
}

func (c *comparison) job(t *testing.T, here string, one hookCase) job {
	t.Helper()
	work := job{Name: one.Name, File: filepath.Join(here, c.files[one.Name]), Inputs: c.inputs(one.Name), Out: c.out(one.Name)}
	if one.Name == racing {
		work.File = filepath.Join(c.root, racing+"_serial.json")
	}
	require.NoError(t, os.MkdirAll(work.Out, 0o700))
	return work
}

// judge compares one case, and says what the table shows.
func (c *comparison) judge(t *testing.T, one hookCase) entry {
	v, ran := readVerdict(t, filepath.Join(c.root, "reducer", one.Name))
	listed, fails := c.failures.of(one.Name, c.torch)
	reason, wrong := c.silent.of(one.Name, c.torch)
	switch {
	case one.Name == racing:
		if ran {
			t.Log("PyTorch got through by chance")
		}
		c.equal(t, one, c.inputs(one.Name))
		return entry{Outcome: outcomeSerial, Upstream: "hangs, times out or aborts, differently each time"}
	case fails:
		require.False(t, ran, "listed as failing with %q, but PyTorch runs it: correct upstream_failures.json", listed)
		require.Contains(t, v.String(), listed, "PyTorch fails otherwise than listed: correct upstream_failures.json")
		e := entry{Outcome: outcomeFails, Upstream: v.short(), Go: c.failsAlike(t, one, v, listed)}
		if v.Type == "AttributeError" && strings.HasSuffix(v.Message, "_hook'") || v.Type == "ModuleNotFoundError" {
			e.Outcome = outcomeAbsent
		}
		return e
	}
	require.True(t, ran, "PyTorch fails, but is not listed in upstream_failures.json: %s", v)
	if !wrong {
		c.equal(t, one, c.inputs(one.Name))
		return entry{Outcome: outcomeEqual}
	}
	direct := filepath.Join(c.root, "direct", one.Name)
	c.equal(t, one, direct)
	assert.NotEmpty(t, difference(one, "out", c.inputs(one.Name), direct, one.Steps), "listed as silently wrong, but the Reducer is right: correct upstream_silently_wrong.json")
	return entry{Outcome: outcomeRight, Upstream: reason}
}

// equal: Go ran every step on every rank, to the same bytes as in want.
func (c *comparison) equal(t *testing.T, one hookCase, want string) {
	t.Helper()
	for rank := range one.World {
		got := c.outcome(t, one.Name, rank)
		require.Empty(t, got.Error, "rank %d, %s", rank, got.Stage)
		require.Equal(t, one.Steps, got.Steps)
		assert.Zero(t, got.Leaked, "tensors left open on rank %d", rank)
	}
	require.Empty(t, difference(one, "out", want, c.out(one.Name), one.Steps), "reduced gradients")
	if one.Mode == "optimizer" {
		require.Empty(t, difference(one, "params", want, c.out(one.Name), one.Steps), "parameters")
	}
}

func (c *comparison) outcome(t *testing.T, name string, rank int) (o outcome) {
	t.Helper()
	data, err := os.ReadFile(outcomeFile(c.out(name), rank))
	require.NoError(t, err, "rank %d left no outcome", rank)
	require.NoError(t, json.Unmarshal(data, &o))
	return o
}

// failsAlike: what PyTorch cannot do is a typed error in Go, at the same step,
// with PyTorch's own words; and the steps before it are equal.
func (c *comparison) failsAlike(t *testing.T, one hookCase, v verdict, listed string) string {
	t.Helper()
	first := c.outcome(t, one.Name, 0)
	for rank := range one.World {
		got := c.outcome(t, one.Name, rank)
		require.NotEmpty(t, got.Error, "PyTorch cannot run this, but Go did: say so in docs/hooks.md and here")
		assert.Zero(t, got.Leaked, "tensors left open on rank %d", rank)
		if got.Error == errNotTried.Error() {
			return got.Error
		}
		assert.Contains(t, got.Error, listed, "rank %d", rank)
		assert.Equal(t, first.Code, got.Code, "rank %d", rank)
		if !one.needsDDP() {
			assert.True(t, got.Typed, "rank %d: no *c10d.Error: %s", rank, got.Error)
			assert.Equal(t, v.Stage, got.Stage, "rank %d", rank)
		}
	}
	if one.needsDDP() {
		return "the same error, when the hook is made"
	}
	assert.Empty(t, difference(one, "out", c.inputs(one.Name), c.out(one.Name), first.Steps), "steps before the error")
	return "the same error, as a `*c10d.Error`: " + first.Code
}

func (c *comparison) everyHookIsInACase(t *testing.T) {
	covered := map[string]bool{}
	for _, one := range c.cases {
		for _, name := range one.names() {
			covered[name] = true
		}
	}
	require.NotEmpty(t, c.facts.Shipped)
	for _, name := range c.facts.Shipped {
		assert.True(t, covered[name], "%s has no case in oracle/cases", name)
	}
}

func (c *comparison) complexBucketsAreRefused(t *testing.T) {
	for _, one := range c.cases {
		if one.complex() {
			got := c.outcome(t, one.Name+"_buffer", 0)
			assert.True(t, got.Typed)
			assert.Contains(t, got.Error, "view_as_complex", "the error says what to do")
		}
	}
}
