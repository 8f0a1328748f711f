package bench

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/internal/cli"
	"pyhook/internal/cli/clitest"
	"pyhook/internal/hookbench"
)

func TestSizesAreBytesOrHaveAUnit(t *testing.T) {
	for text, want := range map[string]int64{"1": 1, "4096": 4096, "4KiB": 4096, "25MiB": 25 << 20, "1GiB": 1 << 30} {
		got, err := parseBytes(text)
		require.NoError(t, err, text)
		assert.Equal(t, want, got, text)
	}
	for _, text := range []string{"", "0", "-1", "4kb", "KiB", "1.5MiB", "9999999999GiB"} {
		_, err := parseBytes(text)
		assert.ErrorContains(t, err, "write bytes, 4KiB", text)
	}
}

func TestBenchRefusesWhatItCannotTime(t *testing.T) {
	for want, args := range map[string][]string{
		"is written in Go":                      {"go:fp16"},
		"at least 1":                            {"noop", "-n", "0"},
		"--params 0":                            {"noop", "--params", "0"},
		"invalid size":                          {"noop", "--sizes", "big"},
		"takes no state of its own":             {"noop", "--state-arg", "k=1"},
		"bench takes one hook":                  {},
		"--scale 0: must be a number above 0":   {"noop", "--scale", "0"},
		"--scale NaN: must be a number above 0": {"noop", "--scale", "nan"},
		"the Reducer's to choose":               {"noop", "--order", "auto"},
	} {
		r := clitest.Command(t, nil, append([]string{"bench"}, args...)...)
		assert.Equal(t, cli.ExitUsage, r.Code, args)
		assert.Contains(t, r.Stderr, want)
	}
}

// Without a C++ compiler the rest is measured, and it says so.
func TestBenchWithoutACompiler(t *testing.T) {
	r := clitest.Command(t, []string{"CXX=/nowhere/g++"}, "bench", "noop", "--scale", "0.02", "--sizes", "4KiB", "--params", "2", "--cache", t.TempDir(), "--json")
	require.Equal(t, cli.ExitOK, r.Code, "%s%s", r.Stdout, r.Stderr)
	assert.Contains(t, r.Stderr, "without a C++ side: the C++ peer cannot be built")
	rows := clitest.Parse[[]hookbench.Row](t, r.Stdout)
	require.Len(t, rows, 1)
	assert.Equal(t, "noop/4KiB/2", rows[0].Case)
	assert.Positive(t, rows[0].GoUS)
	assert.Positive(t, rows[0].PythonUS)
	assert.Positive(t, rows[0].PythonRatio)
	assert.Zero(t, rows[0].CppUS)

	chained := clitest.Command(t, []string{"CXX=/nowhere/g++"}, "bench", "allreduce", "-n", "2", "--scale", "0.02", "--sizes", "4KiB", "--params", "2", "--cache", t.TempDir(), "--json", "--order", "serial")
	require.Equal(t, cli.ExitOK, chained.Code, "%s%s", chained.Stdout, chained.Stderr)
	rows = clitest.Parse[[]hookbench.Row](t, chained.Stdout)
	require.Len(t, rows, 1)
	assert.Equal(t, "allreduce/4KiB/2/2ranks/chained", rows[0].Case)
	assert.Positive(t, rows[0].GoUS)
}
