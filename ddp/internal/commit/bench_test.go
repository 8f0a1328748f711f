package commit_test

import (
	"fmt"
	"sync"
	"testing"

	"pyhook/c10d/transport/memgroup"
	"pyhook/ddp/internal/commit"
)

// BenchmarkVote is what a vote adds to a step whose ranks come to its end together.
func BenchmarkVote(b *testing.B) {
	for _, size := range []int{2, 4, 16} {
		b.Run(fmt.Sprintf("ranks=%d", size), func(b *testing.B) {
			var ranks sync.WaitGroup
			for _, group := range memgroup.New(size) {
				ranks.Go(func() {
					m, err := commit.Join(b.Context(), group, nil, nil, nil)
					if err != nil {
						b.Error(err)
						return
					}
					defer m.Close()
					for step := range uint64(b.N) {
						if f, err := m.Vote(b.Context(), step, nil, nil, cause); f != nil || err != nil {
							b.Errorf("step %d: %v, %v", step, f, err)
							return
						}
					}
				})
			}
			ranks.Wait()
		})
	}
}
