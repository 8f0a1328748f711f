package pyhook

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// documented are the codes in the docstrings of _errors.py's classes.
func documented(t *testing.T, class string) []string {
	t.Helper()
	m, err := rt.Import("pyhook._errors")
	require.NoError(t, err)
	defer m.Close()
	var text string
	require.NoError(t, m.With(class, func(c *Object) error {
		return c.With("__doc__", func(doc *Object) error {
			text, err = doc.Str()
			return err
		})
	}))
	_, list, found := strings.Cut(text, "Codes:")
	require.True(t, found)
	list, _, _ = strings.Cut(list, ".")
	var codes []string
	for _, match := range regexp.MustCompile("``(\\w+)``").FindAllStringSubmatch(list, -1) {
		codes = append(codes, match[1])
	}
	require.NotEmpty(t, codes)
	return codes
}

func TestEachCodeOfPythonHasItsKind(t *testing.T) {
	known := append(documented(t, "HookContractError"), documented(t, "HookLoadError")...)
	assert.ElementsMatch(t, slices.Collect(maps.Keys(codes)), known)
	for _, code := range documented(t, "HookLoadError") {
		require.ErrorIs(t, codes[code], ErrLoad, code)
	}
}

func TestEachErrorOfThePythonPackageIsTyped(t *testing.T) {
	for _, class := range []string{"HookContractError", "HookLoadError", "GroupError"} {
		for _, code := range documented(t, class) {
			t.Run(class+" "+code, func(t *testing.T) {
				path := file(t, "raises.py", fmt.Sprintf("from pyhook._errors import %s\n"+
					"def hook(state, bucket): raise %s(%q, 'what it is', 'what to do')\n", class, class, code))
				h := load(t, path+":hook", HookConfig{})
				_, err := run(t, h, bucket(t, []float32{1}))
				want := codes[code]
				if class == "GroupError" {
					want = ErrGroup
				}
				saysAll(t, err, want, h.Name(), 2)
				require.ErrorContains(t, err, "what it is\nhint: what to do")
				require.ErrorIs(t, err, Exception("pyhook._errors.HookError"))
			})
		}
	}
}

func TestEachKindHasAHint(t *testing.T) {
	for _, kind := range codes {
		assert.NotEmpty(t, hintFor(kind, ""), "%v", kind)
	}
	for _, kind := range []error{ErrRaised, ErrFutureFailed, ErrClosed, ErrBucket, ErrGroup} {
		assert.NotEmpty(t, hintFor(kind, ""), "%v", kind)
	}
}

func TestAHookErrorNamesOnlyWhatThereIs(t *testing.T) {
	e := &HookError{Hook: "m.hook", Rank: -1, Bucket: -1, Kind: ErrRaised}
	assert.Equal(t, "hook m.hook: the hook raised an exception", e.Error())
	e = &HookError{Hook: "m.hook", Rank: 3, Bucket: 0, Kind: ErrRaised, Detail: "boom", Hint: "duck"}
	assert.Equal(t, "hook m.hook, rank 3, bucket 0: the hook raised an exception: boom\nhint: duck", e.Error())
}
