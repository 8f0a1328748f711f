package c10d

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestCodes(t *testing.T) {
	list := Codes()
	require.Len(t, list, len(codes))
	assert.True(t, slices.IsSorted(list))
	texts := map[string]Code{}
	for _, code := range list {
		row := codes[code]
		assert.True(t, code.Known())
		assert.Regexp(t, `^[a-z0-9_]+$`, string(code), "one word")
		assert.NotEmpty(t, row.text, code)
		assert.Equal(t, row.text, code.Error())
		assert.NotContains(t, texts, row.text, "%s has it too", code)
		texts[row.text] = code
		assert.ErrorIs(t, code, code)
		for _, parent := range row.parents {
			assert.True(t, parent.Known(), "%s, a parent of %s", parent, code)
			assert.ErrorIs(t, code, parent)
			assert.NotErrorIs(t, parent, code, "a circle")
			assert.True(t, parent.Hint() == "" || code.Hint() != "", "%s inherits a hint of %s", code, parent)
		}
	}
	assert.False(t, Code("no_such_code").Known())
	assert.Equal(t, "no_such_code", Code("no_such_code").Error())
}

func TestCode_Is(t *testing.T) {
	for _, c := range []struct {
		code   error
		target error
		want   bool
	}{
		{ErrShort, ErrBadResult, true},
		{ErrBadResult, ErrShort, false},
		{Code("none_value"), ErrBadResult, true}, // the parent's parent
		{Code("async"), ErrLoad, true},
		{Code("async"), ErrNotFuture, true}, // the second parent
		{Code("state_immutable"), ErrState, true},
		{ErrPeer, ErrGroup, true},
		{ErrPeer, ErrRaised, false},
		{ErrCanceled, context.Canceled, true},
		{ErrDeadline, context.DeadlineExceeded, true},
		{ErrDeadline, context.Canceled, false},
		{fmt.Errorf("while: %w", ErrShort), ErrBadResult, true},
		{&Error{Code: ErrRaised, Also: []Code{ErrPeer}}, ErrGroup, true},
	} {
		assert.Equal(t, c.want, errors.Is(c.code, c.target), "%v is %v", c.code, c.target)
	}
}

func TestCodesOf(t *testing.T) {
	assert.Equal(t, []Code{ErrBadResult, ErrShort}, CodesOf(fmt.Errorf("while: %w", ErrShort)))
	assert.Equal(t, []Code{ErrGroup, ErrRaised, ErrPeer}, CodesOf(&Error{Code: ErrRaised, Also: []Code{ErrPeer}}))
	assert.Equal(t, []Code{ErrDeadline}, CodesOf(context.DeadlineExceeded))
	assert.Empty(t, CodesOf(errors.New("some other")))
	assert.Empty(t, CodesOf(nil))
}

// TestCodes_Python: what Python's exceptions say, by python/pyhook/_errors.py, Go knows, as a code
// of the kind that the exception is.
func TestCodes_Python(t *testing.T) {
	source, err := os.ReadFile("../python/pyhook/_errors.py")
	require.NoError(t, err)
	for class, kinds := range map[string][]Code{
		"HookContractError": {ErrBadResult, ErrNotFuture, ErrFutureFailed, ErrCollective},
		"HookLoadError":     {ErrLoad},
		"GroupError":        {ErrGroup},
		"StateError":        {ErrState},
	} {
		docstring := regexp.MustCompile(`(?s)\nclass ` + class + `\(.*?"""(.*?)"""`).FindSubmatch(source)
		require.NotNil(t, docstring, class)
		_, list, found := strings.Cut(string(docstring[1]), "Codes:")
		require.True(t, found, "%s lists no codes", class)
		words := regexp.MustCompile("``([a-z_]+)``").FindAllStringSubmatch(list, -1)
		require.Greater(t, len(words), 5, class)
		for _, word := range words {
			code := Code(word[1])
			assert.True(t, code.Known(), "%s raises %q, which has no row in codes.go", class, code)
			assert.True(t, slices.ContainsFunc(kinds, func(kind Code) bool { return code.Is(kind) }), "%s raises %q, which is none of %q", class, code, kinds)
		}
	}
}
