package timeline_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/internal/timeline"
)

// traceEvent is the format as its readers see it.
type traceEvent struct {
	Name string         `json:"name"`
	Ph   string         `json:"ph"`
	Ts   float64        `json:"ts"`
	Dur  *float64       `json:"dur"`
	Pid  *int           `json:"pid"`
	Tid  *int           `json:"tid"`
	ID   string         `json:"id"`
	Cat  string         `json:"cat"`
	Args map[string]any `json:"args"`
}

func decode(t *testing.T, data []byte) (events []traceEvent, other map[string]any) {
	t.Helper()
	var d struct {
		TraceEvents []traceEvent   `json:"traceEvents"`
		OtherData   map[string]any `json:"otherData"`
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	require.NoError(t, decoder.Decode(&d))
	for _, e := range d.TraceEvents {
		require.NotNil(t, e.Pid, "%v", e)
		require.NotNil(t, e.Tid, "%v", e)
		require.Contains(t, []string{"X", "b", "e", "M"}, e.Ph)
	}
	return d.TraceEvents, d.OtherData
}

func at(us int64) time.Time { return time.Unix(100, us*1000) }

func write(t *testing.T, r *timeline.Recorder) []byte {
	t.Helper()
	var b bytes.Buffer
	n, err := r.WriteTo(&b)
	require.NoError(t, err)
	assert.EqualValues(t, b.Len(), n)
	return b.Bytes()
}

func TestRecorder_WriteTo(t *testing.T) {
	t.Run("tracks are threads of the rank's process", func(t *testing.T) {
		r := timeline.New(3)
		r.Add(timeline.Span{Track: "hooks", Name: "second", Start: at(20), End: at(25), Args: map[string]any{"bucket": 1}})
		r.Add(timeline.Span{Track: "trainer", Name: "first", Start: at(10), End: at(40)})
		r.Add(timeline.Span{Track: "hooks", Name: "third", Start: at(30), End: at(29)})
		events, _ := decode(t, write(t, r))

		names := map[int]string{}
		var spans []traceEvent
		for _, e := range events {
			assert.Equal(t, 3, *e.Pid)
			switch {
			case e.Name == "thread_name":
				names[*e.Tid] = e.Args["name"].(string)
			case e.Name == "process_name":
				assert.Equal(t, "rank 3", e.Args["name"])
			case e.Ph == "X":
				spans = append(spans, e)
			}
		}
		require.Len(t, spans, 3)
		assert.Equal(t, map[int]string{0: "trainer", 1: "hooks"}, names)
		assert.Equal(t, []string{"first", "second", "third"}, []string{spans[0].Name, spans[1].Name, spans[2].Name})
		assert.Equal(t, []string{"trainer", "hooks", "hooks"}, []string{names[*spans[0].Tid], names[*spans[1].Tid], names[*spans[2].Tid]})
		assert.InDelta(t, 100e6+20, spans[1].Ts, 0.001)
		assert.InDelta(t, 5, *spans[1].Dur, 0.001)
		assert.Equal(t, map[string]any{"bucket": 1.0}, spans[1].Args)
		assert.Zero(t, *spans[2].Dur, "an end before its start")
	})
	t.Run("async spans have an ID of their own", func(t *testing.T) {
		r := timeline.New(0)
		for range 2 {
			r.Add(timeline.Span{Track: "collectives", Name: "bucket 0", Start: at(1), End: at(9), Async: true, Args: map[string]any{"bytes": 8}})
		}
		events, _ := decode(t, write(t, r))
		open := map[string]float64{}
		for _, e := range events {
			switch e.Ph {
			case "b":
				assert.NotContains(t, open, e.ID)
				open[e.ID] = e.Ts
				assert.Equal(t, "collectives", e.Cat)
				assert.Contains(t, e.Args, "bytes")
			case "e":
				assert.InDelta(t, 8, e.Ts-open[e.ID], 0.001)
			}
		}
		assert.Len(t, open, 2)
	})
	t.Run("spans beyond the limit are counted", func(t *testing.T) {
		r := timeline.New(1)
		r.SetLimit(2)
		for i := range int64(5) {
			r.Add(timeline.Span{Track: "t", Name: "s", Start: at(i), End: at(i)})
		}
		assert.Len(t, r.Spans(), 2)
		assert.Equal(t, 3, r.Dropped())
		_, other := decode(t, write(t, r))
		assert.Equal(t, map[string]any{"rank 1: spans dropped": 3.0}, other)
	})
}

func TestRecorder_Add(t *testing.T) {
	t.Run("a nil Recorder drops every span", func(t *testing.T) {
		var r *timeline.Recorder
		r.Add(timeline.Span{})
		r.Since(time.Now(), "t", "s")
		assert.Empty(t, r.Spans())
		assert.Zero(t, r.Dropped())
		assert.Equal(t, "no timeline", r.String())
		_, err := r.WriteTo(&bytes.Buffer{})
		assert.ErrorContains(t, err, "nil Recorder")
	})
	t.Run("any goroutine adds", func(t *testing.T) {
		r := timeline.New(0)
		var wait sync.WaitGroup
		for range 8 {
			wait.Go(func() {
				for range 100 {
					r.Since(time.Now(), "t", "s")
				}
			})
		}
		wait.Wait()
		assert.Len(t, r.Spans(), 800)
		assert.Equal(t, "timeline of rank 0, 800 spans", r.String())
	})
}

func TestMergeToFile(t *testing.T) {
	t.Run("the file has all ranks", func(t *testing.T) {
		var parts [][]byte
		for rank := range 2 {
			r := timeline.New(rank)
			r.SetLimit(1)
			r.Add(timeline.Span{Track: "t", Name: "s", Start: at(1), End: at(2)})
			r.Add(timeline.Span{})
			parts = append(parts, write(t, r))
		}
		path := filepath.Join(t.TempDir(), "new", "trace.json")
		require.NoError(t, timeline.MergeToFile(path, bytes.NewReader(parts[0]), bytes.NewReader(parts[1])))
		data, err := os.ReadFile(path)
		require.NoError(t, err)
		events, other := decode(t, data)
		ranks := map[int]int{}
		for _, e := range events {
			if e.Ph == "X" {
				ranks[*e.Pid]++
			}
		}
		assert.Equal(t, map[int]int{0: 1, 1: 1}, ranks)
		assert.Len(t, other, 2)

		err = timeline.MergeToFile(path, bytes.NewReader(parts[0]), strings.NewReader("no trace"))
		assert.ErrorContains(t, err, "trace 1 of 2")
		after, err := os.ReadFile(path)
		require.NoError(t, err)
		assert.Equal(t, data, after, "a failure leaves the file")
		left, err := os.ReadDir(filepath.Dir(path))
		require.NoError(t, err)
		assert.Len(t, left, 1)
	})
}

func TestRecorder_WriteFile(t *testing.T) {
	t.Run("an error names the file", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "file")
		require.NoError(t, os.WriteFile(file, nil, 0o600))
		assert.ErrorContains(t, timeline.New(0).WriteFile(filepath.Join(file, "trace.json")), "writing "+file)
	})
}
