package commit

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// While rank 0 waits for the vote of rank 1: whether that is there decides, not how long it takes.
func TestCoordinator_silence(t *testing.T) {
	wait := func(t *testing.T, answers bool, limit time.Duration) (decisions chan message, c *coordinator) {
		t.Helper()
		c, decisions = newCoordinator(2, nil), make(chan message, 1)
		c.join(0, func(m message) { decisions <- m })
		c.join(1, func(m message) {
			if answers && m.Kind == ping {
				go c.handle(1, message{Kind: pong})
			}
		})
		c.handle(0, message{Kind: vote})
		select {
		case m := <-decisions:
			decisions <- m
		case <-time.After(limit):
		}
		return decisions, c
	}
	t.Run("a rank that says nothing fails the step", func(t *testing.T) {
		t.Parallel()
		begin := time.Now()
		decisions, _ := wait(t, false, 2*answerTime)
		require.Len(t, decisions, 1)
		assert.Equal(t, message{Kind: decided, Failure: &Failure{Rank: 1, Silent: true}}, <-decisions)
		assert.Greater(t, time.Since(begin), answerTime)
	})
	t.Run("a rank that is there may take longer", func(t *testing.T) {
		t.Parallel()
		decisions, c := wait(t, true, 3*answerTime/2)
		require.Empty(t, decisions)
		c.handle(1, message{Kind: vote})
		assert.Equal(t, message{Kind: decided}, <-decisions)
	})
	t.Run("a member says that it is there", func(t *testing.T) {
		t.Parallel()
		said := make(chan message, 1)
		m := newMember(1, nil)
		m.out = func(out message) error { said <- out; return nil }
		m.take(message{Kind: ping})
		assert.Equal(t, message{Kind: pong}, <-said)
	})
}
