package side

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
)

// resident is what this process and those below it have in memory, in bytes, after Go has given
// back what it does not use.
func resident() (int64, error) {
	debug.FreeOSMemory()
	statuses, err := filepath.Glob("/proc/[0-9]*/status")
	if err != nil {
		return 0, err
	}
	parent, kib := map[int64]int64{}, map[int64]int64{}
	for _, name := range statuses {
		text, err := os.ReadFile(name)
		if err != nil {
			continue // it has ended
		}
		pid := field(text, "Pid:")
		parent[pid], kib[pid] = field(text, "PPid:"), field(text, "VmRSS:")
	}
	self, sum := int64(os.Getpid()), int64(0)
	if kib[self] == 0 {
		return 0, fmt.Errorf("/proc/%d/status has no VmRSS", self)
	}
	for pid := range kib {
		above := pid
		for above != self && above > 1 {
			above = parent[above]
		}
		if above == self {
			sum += kib[pid] << 10
		}
	}
	return sum, nil
}

// field is a number of a process's status; 0 where it is not.
func field(status []byte, name string) int64 {
	for line := range bytes.Lines(status) {
		if rest, found := bytes.CutPrefix(line, []byte(name)); found {
			if words := bytes.Fields(rest); len(words) > 0 {
				n, _ := strconv.ParseInt(string(words[0]), 10, 64)
				return n
			}
		}
	}
	return 0
}
