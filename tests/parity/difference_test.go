package parity

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
)

var elementSize = map[string]int{"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8, "complex64": 8, "complex128": 16}

// difference compares the dumps of two sides, all ranks and steps, and
// describes the first element that differs; "" when all are equal.
func difference(c hookCase, kind, want, got string, steps int) string {
	for rank := range c.World {
		for step := range steps {
			name := fmt.Sprintf("%s.rank%d.step%d.bin", kind, rank, step)
			w, err := os.ReadFile(filepath.Join(want, name))
			if err != nil {
				return err.Error()
			}
			g, err := os.ReadFile(filepath.Join(got, name))
			if err != nil {
				return err.Error()
			}
			if !bytes.Equal(w, g) {
				return fmt.Sprintf("rank %d, step %d: %s", rank, step, firstDifference(c.Params, w, g))
			}
		}
	}
	return ""
}

func firstDifference(params []caseParam, want, got []byte) string {
	if len(want) != len(got) {
		return fmt.Sprintf("%d bytes, want %d", len(got), len(want))
	}
	at := 0
	for _, p := range params {
		size := elementSize[p.DType]
		for i := range p.len() {
			if w, g := want[at:at+size], got[at:at+size]; !bytes.Equal(w, g) {
				return fmt.Sprintf("%s[%d]: bytes %x, want %x", p.Name, i, g, w)
			}
			at += size
		}
	}
	return "equal"
}
