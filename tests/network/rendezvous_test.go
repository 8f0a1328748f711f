package network_test

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// refused asserts an error of a join: its kind, a part of its text, its time.
func refused(t *testing.T, r *rank, kind, part string) {
	t.Helper()
	a, err := r.hear(time.Minute)
	require.NoError(t, err)
	assert.False(t, a.OK)
	assert.Subset(t, a.Kinds, []string{"ErrGroup", kind}, a.Err)
	assert.Regexp(t, `^joining(, rank \d+)?: `, a.Err) // a negative rank is no rank of an error
	assert.Contains(t, a.Err, part)
	if kind != "DeadlineExceeded" {
		assert.Contains(t, a.Err, "hint: ")
	}
	assert.LessOrEqual(t, a.Took, limit, a.Err)
	t.Logf("after %s: %.300s", a.Took.Round(10*time.Millisecond), a.Err)
}

func TestRanksThatDoNotFit(t *testing.T) {
	t.Parallel()
	_, r := job(t, 3, "pending")
	for _, c := range []struct {
		name     string
		commands [3]string // to each process
		kinds    [3]string // of each one's error
		parts    [3]string // of its text
	}{
		{"out of range", [3]string{"", "join 2 2 29501"}, [3]string{"", "ErrRank"}, [3]string{"", "joining, rank 2: "}},
		{"negative", [3]string{"", "join -1 2 29501"}, [3]string{"", "ErrRank"}, [3]string{"", "rank -1 of 2"}},
		{"no world", [3]string{"", "join 0 -1 29501"}, [3]string{"", "ErrWorldSize"}, [3]string{"", "a world of -1"}},
		{"no such port", [3]string{"", "join 1 2 65536"}, [3]string{"", "ErrAddress"}, [3]string{"", "65535"}},
		{"rank 0 on another host", [3]string{"", "join 0 2 29501"}, [3]string{"", "ErrAddress"}, [3]string{"", "PYHOOK_STORE_LISTEN"}},
		{"nobody serves", [3]string{"", "join 1 2 29501"}, [3]string{"", "ErrJoinTimeout"}, [3]string{"", "10.9.0.1:29501"}},
		{
			"worlds that differ", [3]string{"join 0 2 29502", "join 1 3 29502"},
			[3]string{"ErrWorldSize", "ErrWorldSize"}, [3]string{"a world of 3", "a world of 3"},
		},
		{
			"a rank twice", [3]string{"join 0 3 29502", "join 1 3 29502", "join 1 3 29502"},
			[3]string{"ErrRank", "ErrRank", "ErrRank"}, [3]string{"two processes are rank 1", "two processes", "two processes"},
		},
		{"a rank that does not come", [3]string{"join 0 3 29503", "join 2 3 29503"}, [3]string{"ErrJoinTimeout", "ErrJoinTimeout"}, [3]string{"ranks [1]", "ranks [1]"}},
		{"cancelled", [3]string{"", "join 1 2 29501 and cancel"}, [3]string{"", "DeadlineExceeded"}, [3]string{}},
		{"a server that says nothing", [3]string{"occupy 29504 silent", "join 1 2 29504"}, [3]string{"", "ErrJoinTimeout"}, [3]string{"", "10.9.0.1:29504"}},
		{"a web server", [3]string{"occupy 29505 http", "join 1 2 29505"}, [3]string{"", "ErrNotAStore"}, [3]string{"", "10.9.0.1:29505"}},
		{"its port in use", [3]string{"join 0 2 29505"}, [3]string{"ErrPortInUse"}, [3]string{"port 29505"}},
	} {
		for i, command := range c.commands {
			if command != "" {
				r[i].send(command)
			}
			if strings.HasPrefix(command, "occupy") {
				a, err := r[i].hear(time.Minute)
				require.NoError(t, err)
				require.True(t, a.OK, a.Err)
			}
		}
		for i, kind := range c.kinds {
			if kind != "" {
				t.Log(c.name)
				refused(t, r[i], kind, c.parts[i])
			}
		}
	}
	for _, r := range r {
		r.send("join") // nothing of all that is in the way
	}
	for _, r := range r {
		a, err := r.hear(time.Minute)
		require.NoError(t, err)
		assert.True(t, a.OK, a.Err)
	}
}

func TestAPeerThatIsFrozenWhileTheRanksMeet(t *testing.T) {
	t.Run("rank 0", func(t *testing.T) {
		t.Parallel()
		_, r := job(t, 2, "pending")
		r[0].send("join")
		time.Sleep(time.Second)
		require.NoError(t, r[0].cmd.Process.Signal(syscall.SIGSTOP))
		r[1].send("join")
		refused(t, r[1], "ErrJoinTimeout", "10.9.0.1:29500")
		closes(t, r[1])
	})
	t.Run("rank 0, the others wait for its answer", func(t *testing.T) {
		t.Parallel()
		_, r := job(t, 3, "pending")
		r[0].send("join")
		r[1].send("join")
		time.Sleep(2 * time.Second)
		require.NoError(t, r[0].cmd.Process.Signal(syscall.SIGSTOP))
		refused(t, r[1], "ErrJoinTimeout", "10.9.0.1:29500")
		closes(t, r[1])
	})
	t.Run("another", func(t *testing.T) {
		t.Parallel()
		_, r := job(t, 3, "pending")
		r[0].send("join")
		r[1].send("join")
		time.Sleep(2 * time.Second) // rank 1 knows the name, and waits for rank 2
		require.NoError(t, r[1].cmd.Process.Signal(syscall.SIGSTOP))
		r[2].send("join")
		refused(t, r[0], "ErrJoinTimeout", "rank 0")
		refused(t, r[2], "ErrGroup", "rank 2") // ErrPeer where it sees that rank 0 gave up, else ErrJoinTimeout
		closes(t, r[0])
		closes(t, r[2])
	})
}

func TestAPartitionWhileTheRanksMeet(t *testing.T) {
	t.Parallel()
	w, r := job(t, 2, "pending")
	w.cut.Store(true)
	for _, r := range r {
		r.send("join")
	}
	refused(t, r[0], "ErrJoinTimeout", "ranks [1]")
	refused(t, r[1], "ErrJoinTimeout", "10.9.0.1:29500")
	for _, r := range r {
		closes(t, r)
	}
}
