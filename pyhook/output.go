package pyhook

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync/atomic"

	"pyhook/cbridge"
)

// Output is where what Python code prints and logs goes, line by line. The zero
// value leaves it to the process's own stdout and stderr. What C code writes to
// those goes there in any case.
type Output struct {
	// Writer takes lines, each in one Write, as "[rank 0] text\n".
	Writer io.Writer
	// Logger takes them as records, and those of Python's logging with their level
	// and logger's name: print is Info, sys.stderr is Warn. It goes before Writer.
	Logger *slog.Logger
}

// outputCapacity is how many lines may wait for a slow writer. More are dropped: Python does not
// wait, since the writer may be waiting for Python.
const outputCapacity = 1 << 14

// output carries lines from Python's threads to a goroutine, which writes them.
type output struct {
	Output
	rank    func() int
	lines   chan outputLine
	dropped atomic.Int64
	stop    chan struct{}
	ended   chan struct{}
}

type outputLine struct {
	level  slog.Level
	source string // stdout, stderr, or the logger's name
	text   string
}

// redirect sends the output of Python to o, from source, python/pyhook/_runtime/output.py,
// on; nil if o is nowhere. torch is not imported yet: its import may have
// something to say.
func (o Output) redirect(in *cbridge.Interpreter, source string, rank func() int) (*output, error) {
	if o.Writer == nil && o.Logger == nil {
		return nil, nil
	}
	out := &output{Output: o, rank: rank, lines: make(chan outputLine, outputCapacity), stop: make(chan struct{}), ended: make(chan struct{})}
	line, err := cbridge.NewFunc("pyhook_line", out.line)
	if err != nil {
		return nil, err
	}
	defer line.Close()
	record, err := cbridge.NewFunc("pyhook_record", out.record)
	if err != nil {
		return nil, err
	}
	defer record.Close()
	const name = "_pyhook_streams" // not of the package: interruptions may come in it
	if err := in.InstallPackage(name, map[string]string{name: source}); err != nil {
		return nil, err
	}
	module, err := in.Import(name)
	if err != nil {
		return nil, err
	}
	defer module.Close()
	if _, err := module.CallValue("redirect", line, record); err != nil {
		return nil, err
	}
	go out.write()
	return out, nil
}

// line is called by Python with a stream's name and a line.
func (o *output) line(args []*Object) (any, error) {
	texts, err := texts(args)
	if err != nil || len(texts) != 2 {
		return nil, err
	}
	level := slog.LevelInfo
	if texts[0] == "stderr" {
		level = slog.LevelWarn
	}
	o.take(outputLine{level, texts[0], texts[1]})
	return nil, nil
}

// record is called by Python with a level, a logger's name and a message.
func (o *output) record(args []*Object) (any, error) {
	if len(args) != 3 {
		return nil, nil
	}
	level, err := cbridge.As[int64](args[0])
	if err != nil {
		return nil, err
	}
	texts, err := texts(args[1:])
	if err != nil {
		return nil, err
	}
	o.take(outputLine{slogLevel(level), texts[0], texts[1]})
	return nil, nil
}

func texts(args []*Object) ([]string, error) {
	all := make([]string, len(args))
	for i, arg := range args {
		var err error
		if all[i], err = cbridge.As[string](arg); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// slogLevel is that of Python's: DEBUG 10, INFO 20, WARNING 30, ERROR 40.
func slogLevel(python int64) slog.Level {
	return slog.Level((python - 20) * 2 / 5)
}

func (o *output) take(l outputLine) {
	select {
	case o.lines <- l:
	default:
		o.dropped.Add(1)
	}
}

func (o *output) write() {
	defer close(o.ended)
	for {
		select {
		case l := <-o.lines:
			o.one(l)
		case <-o.stop:
			for len(o.lines) > 0 {
				o.one(<-o.lines)
			}
			o.reportDropped()
			return
		}
		o.reportDropped()
	}
}

func (o *output) reportDropped() {
	if n := o.dropped.Swap(0); n > 0 {
		o.one(outputLine{slog.LevelWarn, "pyhook", fmt.Sprintf("%d lines of Python's output were dropped: they came faster than they were written", n)})
	}
}

func (o *output) one(l outputLine) {
	if o.Logger != nil {
		o.Logger.Log(context.Background(), l.level, l.text, "rank", o.rank(), "source", l.source)
		return
	}
	text := fmt.Sprintf("[rank %d] %s\n", o.rank(), strings.ReplaceAll(l.text, "\n", "\n    "))
	_, _ = o.Writer.Write([]byte(text)) // whoever gave the writer knows of its errors
}

// close writes what there is, and ends. A Python thread that lives on may still
// print, to nowhere.
func (o *output) close() {
	if o != nil {
		close(o.stop)
		<-o.ended
	}
}
