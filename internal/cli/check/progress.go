package check

import (
	"bytes"
	"fmt"
	"os"
	"slices"
)

// mark is one line of a rank's progress file. It is written before and after each
// hook call, so that a rank that dies leaves behind where it was.
type mark struct {
	what         byte // begun, returned or over
	phase        int  // see rankRun.work
	step, bucket int
}

// The states of a hook call.
const (
	begun    = 'b' // it is inside
	returned = 'r' // it has given its future
	over     = 'o' // that is done
)

func (m mark) String() string {
	return fmt.Sprintf("%c %d %d %d\n", m.what, m.phase, m.step, m.bucket)
}

// progressTo writes marks to a file.
func progressTo(path string) (func(mark), error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	// For a live line: nothing is lost where a mark is.
	return func(m mark) { _, _ = f.WriteString(m.String()) }, nil
}

// readMarks returns the marks of a progress file; none where there is no file.
func readMarks(path string) []mark {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	var marks []mark
	for line := range bytes.Lines(text) {
		var m mark
		if n, err := fmt.Sscanf(string(line), "%c %d %d %d", &m.what, &m.phase, &m.step, &m.bucket); err == nil && n == 4 {
			marks = append(marks, m)
		}
	}
	return marks
}

// openCalls are the hook calls that are not over, by step and bucket.
type openCalls struct {
	inside *mark // the call that has not returned
	under  []mark
}

func (o *openCalls) add(m mark) {
	switch m.what {
	case begun:
		o.inside = &m
	case returned:
		o.inside = nil
		o.under = append(o.under, m)
	case over:
		o.under = slices.DeleteFunc(o.under, func(open mark) bool {
			return open.phase == m.phase && open.step == m.step && open.bucket == m.bucket
		})
	}
}

// first is the call to name where something went wrong: the one that is inside,
// or else the oldest whose future is not done.
func (o *openCalls) first() (m mark, ok bool) {
	switch {
	case o.inside != nil:
		return *o.inside, true
	case len(o.under) > 0:
		return o.under[0], true
	}
	return mark{}, false
}
