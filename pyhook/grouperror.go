package pyhook

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// groupFailure is an error of a process group: its text, its kind, which wraps
// ErrGroup, and its cause.
type groupFailure struct {
	text  string
	kind  error
	cause error
}

func (e *groupFailure) Error() string { return e.text }

func (e *groupFailure) Unwrap() []error { return []error{e.kind, e.cause} }

func groupError(doing string, rank int, err error) error {
	if goKind(err, nil) == ErrClosed && !errors.Is(err, ErrClosed) {
		err = fmt.Errorf("%w: %w", ErrClosed, err)
	}
	at, hint := "", ""
	if rank >= 0 {
		at = fmt.Sprintf(", rank %d", rank)
	}
	kind := groupKind(err)
	switch {
	case strings.Contains(err.Error(), invalidScalarType):
		hint = "\nhint: " + dtypeHint
	case kind == ErrPeer && !strings.Contains(err.Error(), "\nhint: "):
		hint = "\nhint: " + peerHint
	}
	return &groupFailure{text: fmt.Sprintf("%v%s: %s: %v%s", ErrGroup, at, doing, err, hint), kind: kind, cause: err}
}

// groupCodes are those of python/pyhook/_errors.py's GroupError that have a kind of
// their own.
var groupCodes = map[string]error{
	"timeout": ErrJoinTimeout, "rank": ErrRank, "world_size": ErrWorldSize, "address": ErrAddress,
	"peer": ErrPeer, "port_in_use": ErrPortInUse, "not_a_store": ErrNotAStore, "torch_version": ErrTorchVersion,
}

func groupKind(err error) error {
	var python *PythonError
	if !errors.As(err, &python) {
		return ErrGroup
	}
	if strings.HasSuffix(python.Type, ".GroupError") {
		if kind := groupCodes[python.Fields["code"]]; kind != nil {
			return kind
		}
		return ErrGroup
	}
	if isPeer(python) {
		return ErrPeer
	}
	return ErrGroup
}

const peerHint = "look at the other ranks' own errors, of which the earliest is the cause. This process group " +
	"is of no use any more: end all ranks and start them again (torchrun does), or Restart their workers"

// peerText is what gloo, nccl and torch's store say where a peer, or the way to it, is
// gone or too slow.
var peerText = regexp.MustCompile(`gloo/transport/|Application timeout caused pair closure|` +
	`Timed out waiting \d+ms for (send|recv) operation|Connection closed by peer|Connection reset by peer|` +
	`connectFullMesh failed|NCCL (communicator was aborted|error)|ncclRemoteError|Watchdog caught collective operation timeout`)

// isPeer says whether an exception, or what caused it, is a backend's about a peer.
func isPeer(python *PythonError) bool {
	for ; python != nil; python = python.Cause {
		if (python.Type == "RuntimeError" || strings.HasPrefix(python.Type, "torch.distributed.Dist")) && peerText.MatchString(python.Message) {
			return true
		}
	}
	return false
}
