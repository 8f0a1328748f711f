package tensor

// Error says why a tensor could not be made, read or exchanged.
type Error struct {
	Op  string // "view", "DLPack import", ...
	Why string
	Err error // the cause, if it is an error of its own (a *cbridge.PythonError)
}

func (e *Error) Error() string {
	text := "tensor: " + e.Op + ": " + e.Why
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// ErrClosed: the tensor was used after its Close.
var ErrClosed = &Error{Op: "use", Why: "the tensor was closed"}
