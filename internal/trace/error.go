package trace

import "fmt"

// Error says what of a recording cannot be used, and what to do.
type Error struct {
	Path   string // the file or folder
	Detail string
	Hint   string
	Err    error // the cause; may be nil
}

// Error returns the text, with the hint on a line of its own.
func (e *Error) Error() string {
	text := fmt.Sprintf("recording %s: %s", e.Path, e.Detail)
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	if e.Hint != "" {
		text += "\nhint: " + e.Hint
	}
	return text
}

func (e *Error) Unwrap() error { return e.Err }
