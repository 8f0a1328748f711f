package launch

import (
	"fmt"
	"strings"
	"syscall"
)

// RankError is the root cause of a failed Job: the rank that failed first. Find it
// with errors.As. When one rank fails, others follow, most with the error of a
// broken connection.
type RankError struct {
	Rank      int
	ExitCode  int            // -1 when a signal ended the rank
	Signal    syscall.Signal // 0 when the rank exited
	Message   string         // from the rank's error file; empty without one
	Traceback string         // likewise
	Tail      string         // the end of the rank's output
}

// Error returns one line. Traceback and Tail are for the caller to print.
func (e *RankError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "launch: rank %d ", e.Rank)
	switch {
	case e.Signal == syscall.SIGKILL:
		b.WriteString("was killed by SIGKILL (the kernel sends it when memory runs out)")
	case e.Signal != 0:
		fmt.Fprintf(&b, "was killed by %s", signalName(e.Signal))
	default:
		fmt.Fprintf(&b, "exited with code %d", e.ExitCode)
	}
	if e.Message != "" {
		first, _, _ := strings.Cut(e.Message, "\n")
		fmt.Fprintf(&b, ": %s", first)
	} else if line := lastLine(e.Tail); line != "" {
		fmt.Fprintf(&b, "; its last output was %q", line)
	}
	return b.String()
}

func lastLine(text string) string {
	text = strings.TrimSpace(text)
	return strings.TrimSpace(text[strings.LastIndexAny(text, "\r\n")+1:])
}
