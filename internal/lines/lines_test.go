package lines

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
)

// writes records each Write, to see what could interleave.
type writes []string

func (w *writes) Write(p []byte) (int, error) {
	*w = append(*w, string(p))
	return len(p), nil
}

func TestWriter(t *testing.T) {
	for _, test := range []struct {
		name string
		in   []string
		want []string
	}{
		{"lines in one write", []string{"a\nb\n"}, []string{"> a\n", "> b\n"}},
		{"a line in pieces", []string{"a", "b", "\n"}, []string{"> ab\n"}},
		{"an open last line is ended", []string{"a\nb"}, []string{"> a\n", "> b\n"}},
		{"empty lines stay", []string{"\n\n"}, []string{"> \n", "> \n"}},
		{"a Windows line end in pieces", []string{"a\r", "\nb\n"}, []string{"> a\r\n", "> b\n"}},
		{"a progress bar", []string{"\r10%", "\r20%", "\n"}, []string{"> \r", "> 10%\r", "> 20%\n"}},
		{"a line without end is broken", []string{strings.Repeat("x", longestLine+1)},
			[]string{"> " + strings.Repeat("x", longestLine) + "\n", "> x\n"}},
		{"nothing", []string{""}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			var got writes
			w := &Writer{Lock: new(sync.Mutex), Dst: &got, Prefix: "> ", Tail: &Tail{Size: 10}}
			for _, s := range test.in {
				n, err := w.Write([]byte(s))
				assert.NoError(t, err)
				assert.Equal(t, len(s), n)
			}
			w.Flush()
			assert.Equal(t, test.want, []string(got))
		})
	}
}

func TestWriter_concurrent(t *testing.T) {
	t.Run("ranks never mix in a line", func(t *testing.T) {
		var got strings.Builder
		var lock sync.Mutex
		var ranks sync.WaitGroup
		for rank := range 4 {
			ranks.Go(func() {
				w := &Writer{Lock: &lock, Dst: &got, Prefix: fmt.Sprintf("[rank %d] ", rank), Tail: &Tail{Size: 10}}
				for range 200 {
					for range 5 {
						fmt.Fprint(w, rank)
					}
					fmt.Fprint(w, "\n")
				}
			})
		}
		ranks.Wait()
		count := map[string]int{}
		for line := range strings.Lines(got.String()) {
			count[line]++
		}
		want := map[string]int{}
		for rank := range 4 {
			want[fmt.Sprintf("[rank %d] %s\n", rank, strings.Repeat(fmt.Sprint(rank), 5))] = 200
		}
		assert.Equal(t, want, count)
	})
}

func TestTail_Text(t *testing.T) {
	t.Run("the last whole lines", func(t *testing.T) {
		k := &Tail{Size: 10}
		k.add([]byte("one\n"))
		assert.Equal(t, "one\n", k.Text())
		for range 100 {
			k.add([]byte("line\n"))
		}
		k.add([]byte("end"))
		assert.Equal(t, "line\nend", k.Text())
		k.add([]byte("a line far longer than the tail is"))
		assert.LessOrEqual(t, len(k.Text()), 10)
		k.add([]byte("\xff"))
		assert.Contains(t, k.Text(), "\uFFFD")
	})
}

func TestRunningThreads(t *testing.T) {
	dump := "Thread 0x1 (most recent call first):\n  File \"h.py\", line 3 in hook\n\nThread 0x2 (most recent call first):\n  <no Python frame>\n\nCurrent thread 0x3 (most recent call first):\n"
	assert.Equal(t, "Thread 0x1 (most recent call first):\n  File \"h.py\", line 3 in hook", RunningThreads(dump))
}
