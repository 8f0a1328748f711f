package cbridge

import (
	"encoding/json"
	"errors"
	"math"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestConvert_RoundTrip(t *testing.T) {
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
		"numbers of JSON":     {[]json.Number{"-2", "18446744073709551615", "2.0", "1e3"}, []any{int64(-2), uint64(math.MaxUint64), 2.0, 1000.0}},
	}
	for name, v := range values {
		t.Run(name, func(t *testing.T) {
			leaks.Check(t, func() {
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

func TestObject_Value(t *testing.T) {
	cases := map[string]struct {
		expression string
		want       any
	}{
		"a tuple is a slice":                 {"(1, 'a')", []any{int64(1), "a"}},
		"bool is not int":                    {"[True, 1]", []any{true, int64(1)}},
		"a bool key":                         {"{True: 1}", map[any]any{true: int64(1)}},
		"a None key":                         {"{None: 1}", map[any]any{nil: int64(1)}},
		"nested dicts":                       {"{'a': {'b': ()}}", map[any]any{"a": map[any]any{"b": []any{}}}},
		"a subclass of int":                  {"__import__('http').HTTPStatus.OK", int64(200)},
		"a subclass of dict":                 {"__import__('collections').OrderedDict(a=1)", map[any]any{"a": int64(1)}},
		"a named tuple":                      {"__import__('collections').namedtuple('P', 'x')(3)", []any{int64(3)}},
		"a lone surrogate is escaped":        {`'a\ud800b'`, `a\ud800b`},
		"an escaped byte is the byte":        {`'a\udcffb'`, "a\xffb"},
		"a float that is a whole number":     {"2.0", 2.0},
		"the largest int of 64 bits":         {"2**64 - 1", uint64(math.MaxUint64)},
		"the smallest int of 64 bits":        {"-2**63", int64(math.MinInt64)},
		"a character outside the first 2^16": {`'\U0001F600'`, "\U0001F600"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			leaks.Check(t, func() { assert.Equal(t, c.want, value(t, c.expression)) })
		})
	}
}

func TestConvert_Errors(t *testing.T) {
	var selfish any
	list := []any{nil}
	list[0] = list
	selfish = list
	selfishTuple := Tuple{nil}
	selfishTuple[0] = map[string]any{"t": selfishTuple}
	cases := map[string]struct {
		value any
		why   string
	}{
		"a channel":                    {make(chan int), "chan int"},
		"a function":                   {func() {}, "func()"},
		"a struct":                     {struct{ A int }{1}, "struct { A int }"},
		"a complex number":             {1i, "complex128"},
		"a pointer to an int":          {new(int), "*int"},
		"a struct in a slice in a map": {map[string]any{"k": []any{1, struct{}{}}}, "[k]: [1]: cannot convert struct {}"},
		"a slice that contains itself": {selfish, "nested too deeply"},
		"a tuple that contains itself": {selfishTuple, "nested too deeply"},
		"a nil *Object":                {(*Object)(nil), ErrObjectClosed.Error()},
		"a slice key (through a any)":  {map[any]any{[1]int{1}: 1}, "unhashable"},
		"a conversion that fails":      {[]any{failingForm{}}, "no tensor today"},
		"a channel as key":             {map[any]any{make(chan int): 1}, "chan int"},
		"a value behind a nil pointer": {map[string]any{"f": func() {}}, "[f]: "},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			leaks.Check(t, func() {
				_, err := Convert(c.value)
				require.Error(t, err)
				assert.Contains(t, err.Error(), c.why)
			})
		})
	}
	var refused *ConvertError
	_, err := Convert([]any{make(chan int)})
	require.ErrorAs(t, err, &refused)
	assert.Equal(t, "chan int", refused.Type)
}

func TestObject_Value_Errors(t *testing.T) {
	cases := map[string]struct{ expression, why string }{
		"a list that contains itself":     {"(lambda l: l.append(l) or l)([])", "nested too deeply"},
		"a dict that contains itself":     {"(lambda d: d.update(d=d) or d)({})", "nested too deeply"},
		"an int beyond 64 bits":           {"2**64", "does not fit in 64 bits"},
		"a negative int beyond 64 bits":   {"-2**63 - 1", "does not fit in 64 bits"},
		"a dict with tuple keys":          {"{(1, 2): 3}", "a key has no comparable Go form"},
		"a complex number":                {"1j", "<class 'complex'>: no Go form"},
		"a set in a list":                 {"[0, {1}]", "[1]: cannot convert <class 'set'>"},
		"a dict value":                    {"{'k': {1}}", "[k]: cannot convert <class 'set'>"},
		"what pretends to be an int":      {"__import__('unittest.mock').mock.Mock(spec=int)", "no Go form"},
		"what fails when asked its class": {"type('X', (), {'__class__': property(lambda s: 1/0)})()", "no Go form"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			leaks.Check(t, func() {
				o := eval(t, c.expression)
				defer o.Close()
				_, err := o.Value()
				var refused *ConvertError
				require.ErrorAs(t, err, &refused)
				assert.Contains(t, err.Error(), c.why)
				_, err = o.Repr() // and no exception was left behind
				require.NoError(t, err)
			})
		})
	}
}

func TestObject_Value_Items(t *testing.T) {
	t.Run("a dict whose items are no pairs is an error and no crash", func(t *testing.T) {
		m := module(t, "class Odd(dict):\n    def items(self): return [1, 2]\n"+
			"class Rude(dict):\n    def items(self): raise OSError('rude')\n")
		for _, class := range []string{"Odd", "Rude"} {
			leaks.Check(t, func() {
				_, err := m.CallValue(class)
				var raised *PythonError
				require.ErrorAs(t, err, &raised)
			})
		}
	})
}

func TestConvert(t *testing.T) {
	t.Run("deep values come back as they went", func(t *testing.T) {
		list, dict := any("end"), any("end")
		for range maxDepth - 1 {
			list, dict = []any{list}, map[any]any{"k": dict}
		}
		for _, v := range []any{list, dict} {
			leaks.Check(t, func() { assert.Equal(t, v, roundTrip(t, v)) })
		}
	})
	t.Run("handles and converted types go inside containers", func(t *testing.T) {
		leaks.Check(t, func() {
			o := eval(t, "{1, 2}")
			defer o.Close()
			m := module(t, "def same(a, b): return a['h'][0] is b and a['l'] == [b, 7, {7: b}]\n")
			defer m.Close()
			nest := map[string]any{
				"h": []*Object{o},
				"l": []any{o, number{7}, map[any]*Object{number{7}: o}},
			}
			assert.Equal(t, true, call(t, m, "same", nest, o))
			assert.Equal(t, []any{int64(1), int64(2)}, roundTrip(t, []number{{1}, {2}}))
			assert.Equal(t, []any{int64(1)}, roundTrip(t, []number{{1}}))
		})
	})
	t.Run("a map's keys arrive in order", func(t *testing.T) {
		m := module(t, "def keys(d): return list(d)\ndef names(**kw): return list(kw)\n")
		letters, mixed, want := map[string]any{}, map[any]any{}, []any{}
		for c := range 26 {
			letters[string(rune('a'+c))], mixed[string(rune('a'+c))] = c, c
			want = append(want, string(rune('a'+c)))
		}
		assert.Equal(t, want, call(t, m, "keys", letters))
		assert.Equal(t, want, call(t, m, "keys", mixed))
		assert.Equal(t, []any{int64(-1), int64(2), int64(10)}, call(t, m, "keys", map[int8]bool{10: true, -1: true, 2: true}))
		assert.Equal(t, []any{-0.5, 1e9}, call(t, m, "keys", map[float64]bool{1e9: true, -0.5: true}))
		mixed[7], mixed[nil] = 0, 0
		assert.Len(t, call(t, m, "keys", mixed), 28)
		names, err := m.Attr("names")
		require.NoError(t, err)
		defer names.Close()
		o, err := names.Invoke(nil, letters)
		require.NoError(t, err)
		defer o.Close()
		got, err := o.Value()
		require.NoError(t, err)
		assert.Equal(t, want, got)
	})
	t.Run("a Tuple is a tuple in Python", func(t *testing.T) {
		m := module(t, "def text(x): return repr(x)\n")
		leaks.Check(t, func() {
			assert.Equal(t, "((1, ['a']), (), [(2,)])", call(t, m, "text", Tuple{Tuple{1, []any{"a"}}, Tuple{}, []Tuple{{2}}}))
		})
	})
}

// number is a Go value with a Python form of its own.
type number struct{ n int }

type failingForm struct{}

func init() {
	RegisterConversion(func(v number) (*Object, error) { return Convert(v.n) })
	RegisterConversion(func(failingForm) (*Object, error) { return nil, errors.New("no tensor today") })
	RegisterConversion(func(panickingForm) (*Object, error) { panic("no form") })
}

func TestAs(t *testing.T) {
	t.Run("the error names both types", func(t *testing.T) {
		n, err := As[int64](eval(t, "41"))
		require.NoError(t, err)
		assert.Equal(t, int64(41), n)
		_, err = As[string](eval(t, "41"))
		require.EqualError(t, err, "cannot convert int64: not a string")
		_, err = As[string](eval(t, "{1}"))
		require.Error(t, err)
	})
}

func roundTrip(t *testing.T, v any) any {
	t.Helper()
	o, err := Convert(v)
	require.NoError(t, err)
	defer o.Close()
	out, err := o.Value()
	require.NoError(t, err)
	return out
}
