package report

import (
	"bytes"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestTableAlignsStyledCells(t *testing.T) {
	var out bytes.Buffer
	p := &Printer{w: &out, colour: true}
	p.Table("  ", "lr", [][]Cell{
		{Text("name"), Text("size")},
		{{Text: "é", Style: p.Good}, Text("1")},
		{Text("bucket"), Text("1000"), Text("last")},
	})
	assert.Equal(t, "  name    size\n  \x1b[32mé\x1b[0m          1\n  bucket  1000  last\n", out.String())
}

func TestNothingIsColouredWhereThereIsNoTerminal(t *testing.T) {
	var out bytes.Buffer
	p := New(&out)
	p.Printf("%s %s %s", p.Good("a"), p.Bad("b"), p.Dim("c"))
	assert.Equal(t, "a b c", out.String())
	progress := NewProgress(&out)
	progress.Set("working")
	progress.Clear()
	assert.Equal(t, "a b c", out.String())
}

func TestErrorHasItsHintsLast(t *testing.T) {
	var out bytes.Buffer
	New(&out).Error("first\nsecond", "Traceback:\n\n  line\n", "do this\nand that", "")
	assert.Equal(t, "error: first\n  second\n    Traceback:\n\n      line\nhint: do this\n      and that\n", out.String())
}

func TestSplitHints(t *testing.T) {
	message, hints := SplitHints("hook x: broken\nhint: mend it\nmore\n  hint: or not")
	assert.Equal(t, "hook x: broken\nmore", message)
	assert.Equal(t, []string{"mend it", "or not"}, hints)
}

func TestBytes(t *testing.T) {
	for n, want := range map[uint64]string{0: "0 B", 999: "999 B", 1000: "1.0 kB", 9_949: "9.9 kB", 9_951: "10 kB",
		999_499: "999 kB", 999_500: "1.0 MB", 123_456_789: "123 MB", 5e15: "5000 TB"} {
		assert.Equal(t, want, Bytes(n), "%d", n)
	}
}

func TestDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{0: "0 us", 850 * time.Microsecond: "850 us", 1250 * time.Microsecond: "1.25 ms",
		34500 * time.Microsecond: "34.5 ms", 999 * time.Millisecond: "999 ms", 3400 * time.Millisecond: "3.40 s", 2 * time.Minute: "120 s"} {
		assert.Equal(t, want, Duration(d))
	}
}

func TestCount(t *testing.T) {
	assert.Equal(t, "1 rank, 0 ranks, 2 ranks", Count(1, "rank")+", "+Count(0, "rank")+", "+Count(2, "rank"))
}

func TestJSONLeavesBracketsAlone(t *testing.T) {
	var out bytes.Buffer
	require.NoError(t, JSON(&out, map[string]string{"a": "<&>"}))
	assert.Equal(t, "{\n  \"a\": \"<&>\"\n}\n", out.String())
}
