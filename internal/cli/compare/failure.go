package compare

import (
	"context"
	"errors"
	"time"

	"pyhook/c10d"
	"pyhook/internal/cli"
	"pyhook/internal/compare"
	"pyhook/pyhook"
)

// The codes of failures that c10d does not have.
const (
	codeNoPython = "no_python"
	codeDied     = "died"
	codeTimeout  = "timeout"
	codeFailed   = "failed"
)

// rankFailure is a failure on one rank.
type rankFailure struct {
	compare.Failure
	Peer bool  // it only saw another rank fail
	At   int64 // ns
}

// newFailure describes err as of now.
func newFailure(rank int, err error) *rankFailure {
	f := &rankFailure{At: time.Now().UnixNano(), Peer: errors.Is(err, c10d.ErrPeer)}
	f.Code, f.Rank = codeFailed, rank
	var coded *c10d.Error
	var discovery *pyhook.DiscoveryError
	switch {
	case errors.As(err, &coded) && coded.Code != "":
		f.Code = string(coded.Code)
	case errors.As(err, &discovery):
		f.Code = codeNoPython
	}
	if errors.Is(err, context.DeadlineExceeded) {
		f.Code = codeTimeout
	}
	f.Message, f.Hint, f.Traceback = cli.TextsOf(err)
	return f
}

// root is the failure to report: the first of a rank's own.
func root(failures []*rankFailure) *compare.Failure {
	var first *rankFailure
	for _, f := range failures {
		switch {
		case f == nil:
		case first == nil, first.Peer && !f.Peer, first.Peer == f.Peer && f.At < first.At:
			first = f
		}
	}
	if first == nil {
		return nil
	}
	return &first.Failure
}
