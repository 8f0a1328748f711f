package report

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestPrinter_Table(t *testing.T) {
	table := func(indent string, align Align, rows func(p *Printer) [][]Cell) string {
		var out bytes.Buffer
		p := &Printer{w: &out, colour: true}
		p.Table(indent, align, rows(p))
		return out.String()
	}
	cells := func(p *Printer) [][]Cell {
		return [][]Cell{
			Row("name", "size", "note"),
			{{Text: "é", Style: p.Good}, Text("1"), {Text: "a  long\tnote", Style: p.Dim}},
			Row("bucket", "1000", ""),
		}
	}
	t.Run("styles take no width", func(t *testing.T) {
		assert.Equal(t, "  name    size  note\n  \x1b[32mé\x1b[0m       1     \x1b[2ma  long\tnote\x1b[0m\n  bucket  1000\n",
			table("  ", AlignLeft, cells))
	})
	t.Run("numbers are set to the right", func(t *testing.T) {
		assert.Equal(t, "  name  size  note\n     \x1b[32mé\x1b[0m     1  \x1b[2ma  long\tnote\x1b[0m\nbucket  1000\n",
			table("", AlignRight, cells))
	})
	t.Run("a cell that is part of its neighbour gets its own style", func(t *testing.T) {
		assert.Equal(t, "ab  \x1b[32ma\x1b[0m  c\n", table("", AlignLeft, func(p *Printer) [][]Cell {
			return [][]Cell{{Text("ab"), {Text: "a", Style: p.Good}, Text("c")}}
		}))
	})
	t.Run("empty cells and rows", func(t *testing.T) {
		assert.Equal(t, "a   b  c\n    b\n\nonly\n", table("", AlignLeft, func(*Printer) [][]Cell {
			return [][]Cell{Row("a ", "b", "c"), Row("", "b", ""), {}, Row("only")}
		}))
	})
}

func TestProgress(t *testing.T) {
	live := func() (*Progress, *bytes.Buffer) {
		var out bytes.Buffer
		p := NewProgress(&out)
		p.live = true
		return p, &out
	}
	t.Run("an activity of unknown length has no bar", func(t *testing.T) {
		p, out := live()
		p.Set("starting")
		assert.Contains(t, out.String(), "starting")
		assert.NotContains(t, out.String(), "(")
	})
	t.Run("steps have one", func(t *testing.T) {
		p, out := live()
		p.Set("starting")
		p.Step("epoch 1", 1, 4)
		assert.Contains(t, out.String(), "epoch 1")
		assert.Contains(t, out.String(), "25%")
		assert.Contains(t, out.String(), "(1/4)")
	})
	t.Run("a line is printed where the live line was, which comes back", func(t *testing.T) {
		p, out := live()
		p.Step("epoch 1", 1, 4)
		out.Reset()
		_, err := fmt.Fprint(p, "a hook's line\n")
		assert.NoError(t, err)
		assert.Regexp(t, `^\r +\ra hook's line\n$`, out.String())
		p.Step("epoch 1", 2, 4)
		assert.Contains(t, out.String(), "(2/4)")
	})
	t.Run("the last step ends it, and another activity follows", func(t *testing.T) {
		p, out := live()
		p.Step("a", 4, 4)
		out.Reset()
		p.Clear()
		assert.Empty(t, out.String())
		p.Step("b", 1, 4)
		assert.Contains(t, out.String(), "b  25%")
		p.Set("c")
		assert.Contains(t, out.String(), "c")
	})
	t.Run("Clear removes it once", func(t *testing.T) {
		p, out := live()
		p.Clear()
		assert.Empty(t, out.String())
		p.Set("a")
		p.Clear()
		out.Reset()
		p.Clear()
		assert.Empty(t, out.String())
	})
	t.Run("steps beyond the total and of nothing", func(t *testing.T) {
		p, _ := live()
		p.Step("a", 7, 4)
		p.Step("b", 0, 0)
		p.Step("b", 1, 0)
	})
}

func TestPrinter_noTerminal(t *testing.T) {
	var out bytes.Buffer
	p := New(&out)
	p.Printf("%s %s %s", p.Good("a"), p.Bad("b"), p.Dim("c"))
	assert.Equal(t, "a b c", out.String())
	progress := NewProgress(&out)
	progress.Set("working")
	progress.Step("working", 1, 2)
	_, err := fmt.Fprint(progress, "!")
	require.NoError(t, err)
	progress.Clear()
	assert.Equal(t, "a b c!", out.String())
}

func TestPrinter_Error(t *testing.T) {
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

func TestJSON(t *testing.T) {
	var out bytes.Buffer
	require.NoError(t, JSON(&out, map[string]string{"a": "<&>"}))
	assert.Equal(t, "{\n  \"a\": \"<&>\"\n}\n", out.String())
}
