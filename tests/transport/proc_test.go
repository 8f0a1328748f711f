package transport_test

import (
	"os"
	"strconv"
	"strings"
)

// statusLine reads a number of /proc/self/status; 0 where there is none.
func statusLine(name string) int64 {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, name+":"); ok {
			n, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return n
		}
	}
	return 0
}

func residentKiB() int64 { return statusLine("VmRSS") }

func threadCount() int64 { return statusLine("Threads") }
