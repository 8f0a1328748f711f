package cli

import (
	"errors"
	"strings"

	"pyhook/internal/report"
	"pyhook/pyhook"
)

// TextsOf returns what a failure's report says of err: its message, its hints, a line each, and the
// traceback of the user's own code.
func TextsOf(err error) (message, hint, traceback string) {
	message, hints := report.SplitHints(err.Error())
	traceback = PythonTraceback(err)
	if traceback != "" {
		message, _, _ = strings.Cut(message, "\n") // the rest is at the traceback's end
	}
	return message, strings.Join(hints, "\n"), traceback
}

// PythonTraceback is the traceback of the user's own code in err, or "". The
// exceptions of pyhook's own Python package speak by their message; what they
// come from may be the user's.
func PythonTraceback(err error) string {
	var python *pyhook.PythonError
	if !errors.As(err, &python) {
		var another interface{ FullTraceback() string } // another rank's
		if errors.As(err, &another) {
			return userFrames(another.FullTraceback())
		}
		return ""
	}
	for python != nil && strings.HasPrefix(python.Type, "pyhook.") {
		python = python.Cause
	}
	if python == nil {
		return ""
	}
	return userFrames(python.FullTraceback())
}

// userFrames leaves out the frames of pyhook's own Python and of the import
// machinery. Where no frame is left there is nothing to see.
func userFrames(traceback string) string {
	var kept []string
	frames, inner, skipping := 0, 0, false
	for _, line := range strings.Split(traceback, "\n") {
		if strings.HasPrefix(line, "  File ") {
			skipping = strings.Contains(line, `"<embedded pyhook>`) || strings.Contains(line, `"<frozen `) || strings.Contains(line, "/importlib/")
			frames++
			if skipping {
				inner++
			}
		} else if !strings.HasPrefix(line, "    ") {
			skipping = false
		}
		if !skipping {
			kept = append(kept, line)
		}
	}
	if frames > 0 && frames == inner {
		return ""
	}
	return strings.Join(kept, "\n")
}
