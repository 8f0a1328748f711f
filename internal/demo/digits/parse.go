package digits

import (
	"bufio"
	"bytes"
	"compress/gzip"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
)

//go:embed digits.csv.gz
var embedded []byte

// maxLine is far above a good line: 65 values in scikit-learn's longest notation
// ("0.000000000000000000e+00") are 1,624 bytes.
const maxLine = 64 << 10

// ErrEmpty is wrapped by the error of a source that holds no digit.
var ErrEmpty = errors.New("no digits")

// RowError says where a source is malformed.
type RowError struct {
	Source string // the path, or "embedded digits.csv.gz"
	Line   int    // from 1
	Column int    // the value's number in its line, from 1; 0 for the line as a whole
	Value  string // the text found, shortened; empty for the line as a whole
	Reason string // what is wrong with it
}

// Error implements error, as "source:line: column 3: value "17": reason".
func (e *RowError) Error() string {
	if e.Column == 0 {
		return fmt.Sprintf("digits: %s:%d: %s", e.Source, e.Line, e.Reason)
	}
	return fmt.Sprintf("digits: %s:%d: column %d: value %q: %s", e.Source, e.Line, e.Column, e.Value, e.Reason)
}

// Load returns the embedded 1,797 digits, freshly parsed: the caller owns them.
func Load() (Dataset, error) {
	return parse("embedded digits.csv.gz", bytes.NewReader(embedded))
}

// Open reads a user's own file of the embedded one's form, gzipped or plain: no
// header, one digit a line, 64 pixels from 0 to 16 and then the label 0 to 9,
// with commas between. Blank lines are skipped. A malformed line gives a
// *RowError, a file without digits wraps ErrEmpty.
func Open(path string) (Dataset, error) {
	f, err := os.Open(path)
	if err != nil {
		return Dataset{}, fmt.Errorf("digits: %w", err)
	}
	defer f.Close()
	return parse(path, f)
}

func parse(source string, r io.Reader) (Dataset, error) {
	in := bufio.NewReader(r)
	var text io.Reader = in
	// The content decides, not the name: a gzip member starts with 1f 8b (RFC 1952).
	if magic, _ := in.Peek(2); bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		gz, err := gzip.NewReader(in)
		if err != nil {
			return Dataset{}, fmt.Errorf("digits: %s: %w", source, err)
		}
		defer gz.Close()
		text = gz
	}

	var d Dataset
	lines := bufio.NewScanner(text)
	lines.Buffer(nil, maxLine)
	number := 0
	for lines.Scan() {
		number++
		line := strings.TrimSpace(lines.Text())
		if line == "" {
			continue
		}
		if rowErr := d.appendRow(line); rowErr != nil {
			rowErr.Source, rowErr.Line = source, number
			return Dataset{}, rowErr
		}
	}
	switch err := lines.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		return Dataset{}, &RowError{Source: source, Line: number + 1, Reason: fmt.Sprintf("the line is longer than %d bytes", maxLine)}
	case err != nil:
		return Dataset{}, fmt.Errorf("digits: %s:%d: %w", source, number+1, err)
	case d.Len() == 0:
		return Dataset{}, fmt.Errorf("digits: %s: %w", source, ErrEmpty)
	}
	return d, nil
}

// appendRow parses one line; the error lacks Source and Line.
func (d *Dataset) appendRow(line string) *RowError {
	if n := strings.Count(line, ",") + 1; n != Features+1 {
		return &RowError{Reason: fmt.Sprintf("%d values, want %d (%d pixels and a label)", n, Features+1, Features)}
	}
	column := 0
	for field := range strings.SplitSeq(line, ",") {
		column++
		field = strings.TrimSpace(field)
		v, err := strconv.ParseFloat(field, 64)
		switch {
		case err != nil:
			return rowError(column, field, "is not a number")
		case column <= Features:
			if !(v >= 0 && v <= maxPixel) {
				return rowError(column, field, "a pixel must be from 0 to 16")
			}
			d.X = append(d.X, float32(v/maxPixel))
		default:
			if !(v >= 0 && v < Classes) || v != float64(uint8(v)) {
				return rowError(column, field, "a label must be a whole number from 0 to 9")
			}
			d.Y = append(d.Y, uint8(v))
		}
	}
	return nil
}

func rowError(column int, field, reason string) *RowError {
	const shown = 32
	if len(field) > shown {
		field = field[:shown] + "..."
	}
	return &RowError{Column: column, Value: field, Reason: reason}
}
