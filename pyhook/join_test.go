package pyhook

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/internal/testutil"
)

func init() { children["rank that gives up joining"] = childGivesUp }

func TestAStopEndsTheWaitForRanksThatDoNotCome(t *testing.T) {
	for name, env := range map[string][]string{
		"rank 0": {"RANK=0"},
		"rank 1": {"RANK=1"}, // torch 1.13 waits for rank 0's store with the GIL held
	} {
		t.Run(name, func(t *testing.T) {
			runChild(t, "rank that gives up joining", append(env, "WORLD_SIZE=2", "MASTER_ADDR=127.0.0.1", "MASTER_PORT="+testutil.FreePort(t))...)
		})
	}
}

func childGivesUp(is *require.Assertions) {
	rt, _ := started(is)
	reason := errors.New("the job is to stop")
	ctx, cancel := context.WithCancelCause(context.Background())
	time.AfterFunc(time.Second, func() { cancel(reason) })
	begin := time.Now()
	_, err := rt.InitProcessGroup(ctx, GroupConfig{Backend: "gloo", Timeout: time.Minute})
	is.ErrorIs(err, reason)
	is.ErrorIs(err, c10d.ErrGroup)
	is.NoError(rt.Close(), "nothing is left waiting")
	is.Less(time.Since(begin), 10*time.Second)
}
