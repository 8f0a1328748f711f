package pyhook

import (
	"regexp"
	"strings"
)

// This file alone reads the error texts of backends.

// invalidScalarType is gloo's error for a dtype that it was built without.
const invalidScalarType = "Invalid scalar type"

const dtypeHint = "this build of the backend cannot all-reduce that dtype: " +
	"run `pyhook doctor`, which lists those that it can"

// peerText matches the errors of gloo, nccl and torch's store about a peer, or the connection to
// it, that is gone or too slow.
var peerText = regexp.MustCompile(`gloo/transport/|Application timeout caused pair closure|` +
	`Timed out waiting \d+ms for (send|recv) operation|Connection closed by peer|Connection reset by peer|Broken pipe|` +
	`Connection refused|Socket Timeout|failed to recv|recvValue failed|` +
	`connectFullMesh failed|NCCL (communicator was aborted|error)|ncclRemoteError|Watchdog caught collective operation timeout`)

// isPeer reports whether an exception, or one of its causes, is a backend's error about a peer.
func isPeer(python *PythonError) bool {
	for ; python != nil; python = python.Cause {
		if (python.Type == "RuntimeError" || strings.HasPrefix(python.Type, "torch.distributed.Dist")) && peerText.MatchString(python.Message) {
			return true
		}
	}
	return false
}
