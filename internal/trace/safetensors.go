package trace

import (
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
)

// Tensors are the tensors of one call's file, in the format of safetensors: 8 bytes with the length
// of a header in JSON, the header, the tensors' bytes. No Go library reads it piece by piece.
type Tensors struct {
	file    *os.File
	path    string
	entries map[string]entry
}

// entry is where a tensor's bytes are in the file.
type entry struct {
	dtype  string
	begin  int64
	length int64
}

// maxHeader is safetensors' own bound.
const maxHeader = 100_000_000

// OpenTensors opens a call's file, and checks that the header fits the file. The caller closes it.
// The error is an *Error.
func (r *Rank) OpenTensors(name string) (*Tensors, error) {
	file, size, err := r.open(name)
	if err != nil {
		return nil, err
	}
	t := &Tensors{file: file, path: filepath.Join(r.path, name)}
	if t.entries, err = parseHeader(file, size); err != nil {
		file.Close()
		return nil, &Error{Path: t.path, Detail: "it is not a safetensors file, or was cut short or changed", Hint: "copy it again, or record again", Err: err}
	}
	return t, nil
}

// Close closes the file.
func (t *Tensors) Close() { t.file.Close() }

// Has reports whether the file has a tensor of that name.
func (t *Tensors) Has(name string) bool { _, has := t.entries[name]; return has }

// Length returns a tensor's bytes; 0 where there is none.
func (t *Tensors) Length(name string) int64 { return t.entries[name].length }

// Check compares a tensor's length with that by the manifest, before memory is allocated for it. The
// error is an *Error.
func (t *Tensors) Check(name string, length int64) error {
	e, has := t.entries[name]
	if !has {
		return &Error{Path: t.path, Detail: fmt.Sprintf("it has no tensor %q", name), Hint: changed}
	}
	if e.length != length {
		return &Error{Path: t.path, Detail: fmt.Sprintf("its tensor %q (%s) has %d bytes, and by the manifest %d", name, e.dtype, e.length, length), Hint: changed}
	}
	return nil
}

// Read fills into with a tensor's bytes: it must have as many. The error is an *Error.
func (t *Tensors) Read(name string, into []byte) error {
	if err := t.Check(name, int64(len(into))); err != nil {
		return err
	}
	if _, err := t.file.ReadAt(into, t.entries[name].begin); err != nil && !(errors.Is(err, io.EOF) && len(into) == 0) {
		return &Error{Path: t.path, Detail: fmt.Sprintf("its tensor %q cannot be read", name), Err: err}
	}
	return nil
}

// parseHeader reads the header of a file of size bytes. The tensors must lie one after another and
// fill the file, as safetensors demands: then no two share bytes, and nothing is hidden.
func parseHeader(file io.ReaderAt, size int64) (map[string]entry, error) {
	var prefix [8]byte
	if size < int64(len(prefix)) {
		return nil, fmt.Errorf("%d bytes", size)
	}
	if _, err := file.ReadAt(prefix[:], 0); err != nil {
		return nil, err
	}
	length := binary.LittleEndian.Uint64(prefix[:])
	if length > maxHeader || int64(length) > size-8 {
		return nil, fmt.Errorf("a header of %d bytes in a file of %d", length, size)
	}
	text := make([]byte, length)
	if _, err := file.ReadAt(text, 8); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	var header map[string]json.RawMessage
	if err := json.Unmarshal(text, &header); err != nil {
		return nil, err
	}
	start := 8 + int64(length)
	entries := map[string]entry{}
	var order []entry
	for name, raw := range header {
		if name == "__metadata__" {
			continue
		}
		e, err := parseEntry(raw, start, size)
		if err != nil {
			return nil, fmt.Errorf("tensor %q: %w", name, err)
		}
		entries[name], order = e, append(order, e)
	}
	slices.SortFunc(order, func(a, b entry) int {
		return cmp.Or(cmp.Compare(a.begin, b.begin), cmp.Compare(a.length, b.length))
	})
	at := start
	for _, e := range order {
		if e.begin != at {
			return nil, errors.New("tensors that do not lie one after another")
		}
		at += e.length
	}
	if at != size {
		return nil, fmt.Errorf("%d bytes, and its tensors end at %d", size, at)
	}
	return entries, nil
}

// itemSizes are safetensors' dtypes.
var itemSizes = map[string]int64{
	"BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
	"I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8, "C64": 8,
}

func parseEntry(raw json.RawMessage, start, size int64) (entry, error) {
	var e struct {
		DType   string
		Shape   []int64
		Offsets []int64 `json:"data_offsets"`
	}
	if err := json.Unmarshal(raw, &e); err != nil {
		return entry{}, err
	}
	item, known := itemSizes[e.DType]
	if !known {
		return entry{}, fmt.Errorf("dtype %q", e.DType)
	}
	if len(e.Offsets) != 2 || e.Offsets[0] < 0 || e.Offsets[1] < e.Offsets[0] || e.Offsets[1] > size-start {
		return entry{}, fmt.Errorf("bytes %v of %d", e.Offsets, size-start)
	}
	if slices.ContainsFunc(e.Shape, func(n int64) bool { return n < 0 }) {
		return entry{}, fmt.Errorf("shape %v", e.Shape)
	}
	length := e.Offsets[1] - e.Offsets[0]
	if n := elements(e.Shape); n < 0 || n*item != length {
		return entry{}, fmt.Errorf("shape %v of %s in %d bytes", e.Shape, e.DType, length)
	}
	return entry{e.DType, start + e.Offsets[0], length}, nil
}
