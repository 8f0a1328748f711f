package commit

import (
	"context"
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// unanswered is a member of rank 1 whose rank 0 takes each message and says nothing.
func unanswered(t *testing.T) *Member {
	t.Helper()
	here, there := net.Pipe()
	go func() { _, _ = io.Copy(io.Discard, there) }()
	m := newMember(1, nil)
	require.NoError(t, m.attach(here, ""))
	t.Cleanup(m.Close)
	return m
}

// A member that votes no, or gives up, has waited for its own timeout already: docs/faults.md promises
// its error within 2 s of that.
func TestMember_Vote_unanswered(t *testing.T) {
	cause := func(err error) []byte { return []byte(err.Error()) }
	for name, c := range map[string]struct {
		no          *Failure
		ends        time.Duration // the context; 0: never
		least, most time.Duration
	}{
		"a yes waits the longest":         {nil, 0, answerTime, 2 * answerTime},
		"a no":                            {&Failure{Rank: 1}, 0, noTime, 3 * noTime / 2},
		"a yes whose context ends":        {nil, 100 * time.Millisecond, noTime, 3 * noTime / 2},
		"a no whose context ends at once": {&Failure{Rank: 1}, time.Nanosecond, noTime, 3 * noTime / 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := t.Context()
			if c.ends > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, c.ends)
				defer cancel()
			}
			begin := time.Now()
			_, err := unanswered(t).Vote(ctx, 0, c.no, nil, cause)
			took := time.Since(begin)
			require.ErrorIs(t, err, ErrNoAnswer)
			assert.GreaterOrEqual(t, took, c.least)
			assert.Less(t, took, c.most)
		})
	}
}
