package launch

import (
	"fmt"
	"strconv"
	"strings"
)

// fieldNames holds the variable that each field of a World came from, so that an
// error about a field names what the user can change.
type fieldNames struct {
	rank, worldSize           string
	localRank, localWorldSize string
	nodeRank, nodes           string
	masterAddr, masterPort    string
}

// check refuses a World that cannot be. Every World that Detect returns passes it. Its errors
// are *Error.
func (w World) check(v fieldNames) error {
	fail := func(name string, value any, reason, hint string) error {
		return &Error{Source: w.Source, Variable: name, Value: fmt.Sprint(value), Reason: reason, Hint: hint}
	}
	switch {
	case w.Size < 1:
		return fail(v.worldSize, w.Size, "is not at least 1", "it counts all processes of the job")
	case w.Rank < 0 || w.Rank >= w.Size:
		return fail(v.rank, w.Rank, fmt.Sprintf("is not in 0..%d, as %s is %d", w.Size-1, v.worldSize, w.Size),
			"ranks count from 0")
	case w.LocalSize < 1 || w.LocalSize > w.Size:
		return fail(v.localWorldSize, w.LocalSize,
			fmt.Sprintf("is not in 1..%d, as %s is %d", w.Size, v.worldSize, w.Size),
			"it counts the processes of this machine")
	case w.LocalRank < 0 || w.LocalRank >= w.LocalSize:
		return fail(v.localRank, w.LocalRank,
			fmt.Sprintf("is not in 0..%d, as %s is %d", w.LocalSize-1, v.localWorldSize, w.LocalSize),
			"local ranks count from 0 on each machine")
	case w.Nodes < 1 || w.Nodes > w.Size:
		return fail(v.nodes, w.Nodes, fmt.Sprintf("is not in 1..%d, as %s is %d", w.Size, v.worldSize, w.Size),
			"a machine without a process is not part of the job")
	case w.NodeRank < 0 || w.NodeRank >= w.Nodes:
		return fail(v.nodeRank, w.NodeRank, fmt.Sprintf("is not in 0..%d, as %s is %d", w.Nodes-1, v.nodes, w.Nodes),
			"machines count from 0")
	case w.MasterPort < 1 || w.MasterPort > 65535:
		return fail(v.masterPort, w.MasterPort, "is not a port (1..65535)", "every rank must be given the same free port")
	}
	if reason := badAddress(w.MasterAddr); reason != "" {
		return fail(v.masterAddr, w.MasterAddr, reason, "give the host name or IP address of rank 0's machine, and the port apart")
	}
	return nil
}

// badAddress finds the two mistakes that torch reports only as a connect
// timeout, minutes later: a URL, and a port joined to the host.
func badAddress(addr string) string {
	switch {
	case addr == "":
		return "is empty"
	case strings.ContainsAny(addr, " \t\r\n\x00=/[]"):
		return "is not a host name or an IP address"
	}
	if host, port, ok := strings.Cut(addr, ":"); ok && !strings.Contains(port, ":") {
		if _, err := strconv.Atoi(port); err == nil && host != "" {
			return "has a port in it"
		}
		return "is not a host name or an IP address"
	}
	return ""
}

// deriveNodes sets NodeRank and Nodes as if ranks fill machine after machine.
func (w *World) deriveNodes() {
	if w.LocalSize < 1 || w.Size < 1 || w.LocalSize > w.Size {
		return // check names the fault
	}
	w.Nodes = (w.Size-1)/w.LocalSize + 1
	w.NodeRank = w.Rank / w.LocalSize
}
