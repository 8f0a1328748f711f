package check

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/internal/cli"
)

func TestParseSizes(t *testing.T) {
	for _, c := range []struct {
		text    string
		buckets int
		want    [][][]int64
	}{
		{"1000", 0, [][][]int64{{{1000}}}},
		{"1000, 64x32", 0, [][][]int64{{{1000}, {64, 32}}}},
		{"8;2x3", 0, [][][]int64{{{8}}, {{2, 3}}}},
		{"8;2x3", 3, [][][]int64{{{8}}, {{2, 3}}, {{8}}}},
		{"", 2, [][][]int64{{{10, 64}, {10}}, {{64, 32, 3, 3}, {64}}}},
	} {
		got, err := parseSizes(c.text, c.buckets)
		require.NoError(t, err, c.text)
		assert.Equal(t, c.want, got, c.text)
	}
	byDefault, err := parseSizes("", 0)
	require.NoError(t, err)
	assert.Len(t, byDefault, 3)
}

func TestBadSizesAreNamed(t *testing.T) {
	for text, buckets := range map[string]int{"": -0, "x": 0, "3xy": 0, "0": 0, "-4": 0, "1;;2": 0, "1;2": 1, "100000x100000": 0, "1e3": 0} {
		if text == "" {
			continue
		}
		_, err := parseSizes(text, buckets)
		assert.ErrorContains(t, err, "--sizes", text)
	}
}

func TestShapesAreWrittenAsTheyAreRead(t *testing.T) {
	for _, text := range []string{"1000", "64x32x3x3,64", "1,2x2"} {
		shapes, err := parseShapes(text)
		require.NoError(t, err)
		assert.Equal(t, text, formatShapes(shapes))
	}
	assert.EqualValues(t, 1000+33*17+1, elementsOf([][]int64{{1000}, {33, 17}, {1}}))
}

func TestPlansThatCannotRunAreUsageErrors(t *testing.T) {
	good := func() checkPlan {
		return checkPlan{Steps: 1, DType: "float32", Timeout: time.Second, Backend: "gloo"}
	}
	plan := good()
	require.NoError(t, plan.validate())
	for name, spoil := range map[string]func(*checkPlan){
		"an integer dtype": func(p *checkPlan) { p.DType = "int8" },
		"no dtype":         func(p *checkPlan) { p.DType = "nonsense" },
		"no steps":         func(p *checkPlan) { p.Steps = 0 },
		"no time":          func(p *checkPlan) { p.Timeout = 0 },
		"a negative limit": func(p *checkPlan) { p.MaxError = -1 },
		"nccl":             func(p *checkPlan) { p.Backend = "nccl" },
	} {
		plan := good()
		spoil(&plan)
		err := plan.validate()
		var chosen *cli.ExitError
		require.ErrorAs(t, err, &chosen, name)
		assert.Equal(t, cli.ExitUsage, chosen.Code, name)
	}
	plan = good()
	plan.DType = "torch.half"
	require.NoError(t, plan.validate())
	assert.Equal(t, "float16", plan.DType)
}
