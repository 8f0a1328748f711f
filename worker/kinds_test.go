package worker

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/pyhook"
)

// TestEveryKindOfPyhookTravels compares the list with package pyhook's source.
func TestEveryKindOfPyhookTravels(t *testing.T) {
	listed := map[string]bool{}
	for _, kind := range kinds {
		assert.False(t, listed[kind.Error()], "%q is there twice", kind)
		listed[kind.Error()] = true
	}
	own := parsed(t, "remote_error.go")
	files, err := filepath.Glob("../pyhook/*.go")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	found := 0
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		for _, name := range errorVariables(parsed(t, file)) {
			found++
			assert.True(t, mentions(own, name), "pyhook.%s of %s is not in kinds", name, file)
		}
	}
	assert.Greater(t, found, 20)
}

func parsed(t *testing.T, path string) *ast.File {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
	require.NoError(t, err)
	return file
}

func errorVariables(file *ast.File) (names []string) {
	for _, decl := range file.Decls {
		d, ok := decl.(*ast.GenDecl)
		if !ok || d.Tok != token.VAR {
			continue
		}
		for _, spec := range d.Specs {
			for _, name := range spec.(*ast.ValueSpec).Names {
				if strings.HasPrefix(name.Name, "Err") {
					names = append(names, name.Name)
				}
			}
		}
	}
	return names
}

func mentions(file *ast.File, name string) (found bool) {
	ast.Inspect(file, func(n ast.Node) bool {
		s, ok := n.(*ast.SelectorExpr)
		found = found || ok && s.Sel.Name == name
		return !found
	})
	return found
}

func TestErrorsTravelWithTheirKindsAndException(t *testing.T) {
	python := &pyhook.PythonError{Type: "ValueError", Message: "out of cheese", Traceback: "File x", Bases: []string{"Exception"}}
	for _, err := range []error{
		&pyhook.HookError{Hook: "h", Rank: 1, Bucket: 2, Kind: pyhook.ErrShort, Detail: "d", Hint: "do", Err: python},
		fmt.Errorf("%w: joining: %w", pyhook.ErrGroup, python),
	} {
		got := remote(err).local()
		assert.Equal(t, err.Error(), got.Error())
		assert.Equal(t, errors.Is(err, pyhook.ErrBadResult), errors.Is(got, pyhook.ErrBadResult))
		assert.Equal(t, errors.Is(err, pyhook.ErrGroup), errors.Is(got, pyhook.ErrGroup))
		assert.ErrorIs(t, got, pyhook.Exception("Exception"))
		var there *pyhook.PythonError
		require.ErrorAs(t, got, &there)
		assert.Equal(t, python, there)
	}
	assert.NoError(t, remote(nil).local())
}
