package launch

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"pyhook/internal/wholefile"
)

const errorFileVariable = "TORCHELASTIC_ERROR_FILE"

// errorReport is what torch/distributed/elastic/multiprocessing/errors reads.
// The timestamp is a string of whole seconds: the agent calls int() on it, and
// anything else kills the agent with its restarts unused.
type errorReport struct {
	Message errorMessage `json:"message"`
}

type errorMessage struct {
	Message   string    `json:"message"`
	ExtraInfo errorInfo `json:"extraInfo"`
}

type errorInfo struct {
	Callstack string   `json:"py_callstack"`
	Timestamp *seconds `json:"timestamp"` // nil: not given
}

// seconds, since 1970, are written as a string, and read as a number or a string of one, as
// Python's int() does.
type seconds int64

func (s seconds) MarshalJSON() ([]byte, error) { return fmt.Appendf(nil, `"%d"`, int64(s)), nil }

func (s *seconds) UnmarshalJSON(text []byte) error {
	n, err := strconv.ParseInt(strings.Trim(string(text), `"`), 10, 64)
	*s = seconds(n)
	return err
}

// WriteErrorFile reports to torchrun why this rank failed, by the file that
// TORCHELASTIC_ERROR_FILE names. It does nothing when that is unset or err is
// nil.
//
// at is when the error first happened. The agent reports the earliest of all
// ranks as the root cause, so a rank that merely lost its connection to the one
// at fault should give a later time, or not write at all.
//
// If an error in err's chain has a method FullTraceback() string, as a Python
// error has, or Traceback() string, that text follows the message where the
// agent shows a traceback. So does the traceback of a *RankError, of a launcher
// that is itself a rank.
//
// The file appears whole or not at all, because an agent that reads half a file
// crashes. Errors are of the file system and name the file.
func WriteErrorFile(err error, at time.Time) error {
	path := os.Getenv(errorFileVariable)
	if path == "" || err == nil {
		return nil
	}
	text := errorKind(err) + ": " + err.Error()
	happened := seconds(at.Unix())
	report := errorReport{errorMessage{Message: text, ExtraInfo: errorInfo{Callstack: text, Timestamp: &happened}}}
	if trace := traceback(err); trace != "" {
		report.Message.ExtraInfo.Callstack = text + "\n\n" + trace
	}
	err = wholefile.Write(path, wholefile.Public, func(w io.Writer) error {
		data, err := json.Marshal(report)
		if err == nil {
			_, err = w.Write(data)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("launch: write the error file %s: %w", path, err)
	}
	return nil
}

func traceback(err error) string {
	var traced interface{ Traceback() string }
	var python interface{ FullTraceback() string } // cbridge.PythonError, whose Traceback is a field
	var rank *RankError
	switch {
	case errors.As(err, &python):
		return python.FullTraceback()
	case errors.As(err, &traced):
		return traced.Traceback()
	case errors.As(err, &rank):
		return rank.Traceback
	}
	return ""
}

// errorKind returns the first type in the chain that is not a wrapper of fmt or errors.
func errorKind(err error) string {
	for e := err; e != nil; e = errors.Unwrap(e) {
		kind := strings.TrimPrefix(fmt.Sprintf("%T", e), "*")
		if !strings.HasPrefix(kind, "fmt.") && !strings.HasPrefix(kind, "errors.") {
			return kind
		}
	}
	return "error"
}

// readErrorFile reads either legal form: the full report, or a message and a
// timestamp side by side. ok is false where there is no readable report.
func readErrorFile(path string) (report errorReport, at int64, ok bool) {
	data, err := os.ReadFile(path)
	if err != nil {
		return report, 0, false
	}
	if json.Unmarshal(data, &report) != nil {
		var short struct {
			Message   string
			Timestamp *seconds
		}
		if json.Unmarshal(data, &short) != nil {
			return errorReport{}, 0, false
		}
		report = errorReport{errorMessage{Message: short.Message, ExtraInfo: errorInfo{Timestamp: short.Timestamp}}}
	}
	if report.Message.ExtraInfo.Timestamp == nil {
		return errorReport{}, 0, false
	}
	return report, int64(*report.Message.ExtraInfo.Timestamp), true
}
