package cbridge

import (
	"math"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestGoValuesComeBackFromPythonAsTheyWent(t *testing.T) {
	deep := []any{int64(1)}
	for range 20 {
		deep = []any{deep}
	}
	values := map[string]struct{ in, out any }{
		"nil":                 {nil, nil},
		"true":                {true, true},
		"false":               {false, false},
		"int":                 {-7, int64(-7)},
		"smallest int64":      {int64(math.MinInt64), int64(math.MinInt64)},
		"largest uint64":      {uint64(math.MaxUint64), uint64(math.MaxUint64)},
		"uint8":               {uint8(200), int64(200)},
		"float32":             {float32(0.5), 0.5},
		"infinity":            {math.Inf(-1), math.Inf(-1)},
		"empty string":        {"", ""},
		"text":                {"grad → 勾配 \x00 end", "grad → 勾配 \x00 end"},
		"bytes not UTF-8":     {"\xff\xfe", "\xff\xfe"},
		"bytes":               {[]byte{0, 1, 255}, []byte{0, 1, 255}},
		"empty bytes":         {[]byte{}, []byte{}},
		"slice":               {[]int{1, 2}, []any{int64(1), int64(2)}},
		"array of strings":    {[2]string{"a", "b"}, []any{"a", "b"}},
		"nested":              {[]any{1, []any{"x", nil}}, []any{int64(1), []any{"x", nil}}},
		"deeply nested":       {deep, deep},
		"map":                 {map[string]any{"k": []float64{1.5}}, map[any]any{"k": []any{1.5}}},
		"map with int keys":   {map[int]bool{3: true}, map[any]any{int64(3): true}},
		"named types":         {struct1(9), int64(9)},
		"nil pointer":         {(*int)(nil), nil},
		"nil slice is a list": {[]int(nil), []any{}},
	}
	for name, v := range values {
		t.Run(name, func(t *testing.T) {
			noLeaks(t, func() {
				o, err := Convert(v.in)
				require.NoError(t, err)
				defer o.Close()
				out, err := o.Value()
				require.NoError(t, err)
				assert.Equal(t, v.out, out)
			})
		})
	}
}

type struct1 int
