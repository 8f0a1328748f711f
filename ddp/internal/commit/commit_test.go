package commit_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d/transport/memgroup"
	"pyhook/ddp/internal/commit"
	"pyhook/internal/testutil"
)

// notices are the failed steps that a member heard of.
type notices struct {
	mu   sync.Mutex
	seen map[uint64]*commit.Failure
}

func (n *notices) note(step uint64, f *commit.Failure) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.seen == nil {
		n.seen = map[uint64]*commit.Failure{}
	}
	n.seen[step] = f
}

func (n *notices) of(step uint64) *commit.Failure {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.seen[step]
}

// members joins all ranks and runs each on a goroutine.
func members(t *testing.T, size int, run func(rank int, m *commit.Member, heard *notices)) {
	t.Helper()
	testutil.NoGoroutines(t, func() {
		var ranks sync.WaitGroup
		for rank, group := range memgroup.New(size) {
			ranks.Go(func() {
				var heard notices
				m, err := commit.Join(testutil.Soon(t), group, []commit.Term{{Name: "alike", Value: "yes"}}, heard.note, nil)
				if assert.NoError(t, err) {
					defer m.Close()
					run(rank, m, &heard)
				}
			})
		}
		ranks.Wait()
	})
}

func cause(err error) []byte { return []byte(err.Error()) }

func no(rank int, over bool, text string) *commit.Failure {
	return &commit.Failure{Rank: rank, Over: over, Cause: []byte(text)}
}

func TestMember_Vote(t *testing.T) {
	t.Run("a thousand steps, of which some fail, are decided alike on all ranks", func(t *testing.T) {
		const size, steps = 4, 1000
		outcomes := make([][]string, size)
		members(t, size, func(rank int, m *commit.Member, _ *notices) {
			random := rand.New(rand.NewPCG(1, uint64(rank)))
			for step := range uint64(steps) {
				var vote *commit.Failure
				if random.IntN(40) == 0 {
					vote = no(rank, random.IntN(2) == 0, fmt.Sprint(step))
				}
				f, err := m.Vote(testutil.Soon(t), step, vote, nil, cause)
				if !assert.NoError(t, err) {
					return
				}
				text := "good"
				if f != nil {
					text = fmt.Sprintf("%d %s %t", f.Rank, f.Cause, f.Over)
				}
				outcomes[rank] = append(outcomes[rank], text)
			}
		})
		for rank := range size {
			require.Equal(t, outcomes[0], outcomes[rank])
		}
		require.Len(t, outcomes[0], steps)
		assert.Contains(t, outcomes[0], "good")
	})
	t.Run("a no with collectives under way ends the step before the others vote", func(t *testing.T) {
		members(t, 3, func(rank int, m *commit.Member, heard *notices) {
			if rank == 2 {
				m.Fail(0, no(2, false, "boom"))
			} else {
				testutil.Eventually(t, func() bool { return heard.of(0) != nil })
			}
			f, err := m.Vote(testutil.Soon(t), 0, nil, nil, cause)
			assert.NoError(t, err)
			assert.Equal(t, no(2, false, "boom"), f)
			f, err = m.Vote(testutil.Soon(t), 1, nil, nil, cause)
			assert.NoError(t, err)
			assert.Nil(t, f)
		})
	})
	t.Run("a failure that follows from another one waits for that", func(t *testing.T) {
		members(t, 3, func(rank int, m *commit.Member, _ *notices) {
			for step, strong := range []bool{true, false} {
				want := no(1, false, "lost a peer")
				want.Weak = true
				switch {
				case rank == 1:
					m.Fail(uint64(step), want)
				case rank == 2 && strong:
					time.Sleep(20 * time.Millisecond)
					m.Fail(uint64(step), no(2, false, "crashed"))
				}
				if strong {
					want = no(2, false, "crashed")
				}
				f, err := m.Vote(testutil.Soon(t), uint64(step), nil, nil, cause)
				assert.NoError(t, err)
				assert.Equal(t, want, f)
			}
		})
	})
	t.Run("a no after all collectives waits for the other votes", func(t *testing.T) {
		voted := make(chan struct{})
		members(t, 2, func(rank int, m *commit.Member, heard *notices) {
			if rank == 0 {
				go func() {
					time.Sleep(20 * time.Millisecond)
					assert.Nil(t, heard.of(0))
					close(voted)
				}()
				f, err := m.Vote(testutil.Soon(t), 0, no(0, true, "not finite"), nil, cause)
				assert.NoError(t, err)
				assert.Equal(t, no(0, true, "not finite"), f)
				return
			}
			<-voted
			f, err := m.Vote(testutil.Soon(t), 0, nil, nil, cause)
			assert.NoError(t, err)
			assert.Equal(t, no(0, true, "not finite"), f)
		})
	})
	t.Run("a context that ends makes the vote a no, on all ranks", func(t *testing.T) {
		ended := make(chan struct{})
		members(t, 2, func(rank int, m *commit.Member, _ *notices) {
			if rank == 1 {
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
				defer cancel()
				f, err := m.Vote(ctx, 0, nil, nil, cause)
				assert.NoError(t, err)
				assert.Equal(t, no(1, false, context.DeadlineExceeded.Error()), f)
				close(ended)
				return
			}
			<-ended
			f, err := m.Vote(testutil.Soon(t), 0, nil, nil, cause)
			assert.NoError(t, err)
			assert.Equal(t, no(1, false, context.DeadlineExceeded.Error()), f)
		})
	})
	t.Run("a rank that leaves after its vote fails the next step and not this one", func(t *testing.T) {
		members(t, 3, func(rank int, m *commit.Member, heard *notices) {
			f, err := m.Vote(testutil.Soon(t), 0, nil, nil, cause)
			assert.NoError(t, err)
			assert.Nil(t, f)
			if rank == 1 {
				return
			}
			testutil.Eventually(t, func() bool { return heard.of(1) != nil })
			f, err = m.Vote(testutil.Soon(t), 1, nil, nil, cause)
			assert.NoError(t, err)
			if assert.NotNil(t, f) {
				assert.Equal(t, 1, f.Rank)
				assert.Contains(t, f.Gone, "closed its Reducer")
			}
			f, err = m.Vote(testutil.Soon(t), 2, nil, nil, cause)
			assert.NoError(t, err)
			assert.NotNil(t, f, "nor any later one")
		})
	})
}

func TestMember_Meet(t *testing.T) {
	t.Run("all bring what all get", func(t *testing.T) {
		members(t, 3, func(rank int, m *commit.Member, _ *notices) {
			for i := range 50 {
				all, err := m.Meet(testutil.Soon(t), fmt.Appendf(nil, "%d %d", rank, i))
				assert.NoError(t, err)
				for other := range 3 {
					assert.Equal(t, fmt.Sprintf("%d %d", other, i), string(all[other]))
				}
			}
		})
	})
	t.Run("a rank that is gone ends it", func(t *testing.T) {
		members(t, 3, func(rank int, m *commit.Member, _ *notices) {
			if rank == 0 {
				return
			}
			_, err := m.Meet(testutil.Soon(t), nil)
			var gone *commit.GoneError
			if assert.ErrorAs(t, err, &gone) {
				assert.Equal(t, 0, gone.Rank)
			}
		})
	})
	t.Run("a context ends the wait", func(t *testing.T) {
		members(t, 2, func(rank int, m *commit.Member, _ *notices) {
			if rank == 0 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
				defer cancel()
				_, err := m.Meet(ctx, nil)
				assert.ErrorIs(t, err, context.DeadlineExceeded)
			} else {
				time.Sleep(10 * time.Millisecond)
			}
		})
	})
}

func TestJoin(t *testing.T) {
	t.Run("terms that differ", func(t *testing.T) {
		var ranks sync.WaitGroup
		for rank, group := range memgroup.New(4) {
			ranks.Go(func() {
				terms := []commit.Term{{Name: "same", Value: "yes"}, {Name: "rank"}, {Name: "said by two"}, {Name: "said by one"}}
				if rank > 0 {
					terms[1].Value, terms[2].Value = fmt.Sprint(rank), "yes"
				} else {
					terms[3].Value = "yes"
				}
				_, err := commit.Join(testutil.Soon(t), group, terms, nil, nil)
				var differ *commit.TermsError
				if assert.ErrorAs(t, err, &differ) {
					assert.Equal(t, []commit.Difference{{Name: "rank", Ranks: [2]int{1, 2}, Values: [2]string{"1", "2"}}}, differ.Differ)
				}
			})
		}
		ranks.Wait()
	})
	t.Run("a rank that does not come", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		_, err := commit.Join(ctx, memgroup.New(2)[0], nil, nil, nil)
		require.True(t, errors.Is(err, context.DeadlineExceeded), "%v", err)
	})
}
