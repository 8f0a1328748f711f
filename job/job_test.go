package job_test

import (
	"context"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/job"
	"pyhook/launch"
	"pyhook/pyhook"
	"pyhook/worker"
)

const again = "again: job: this process has joined the job already: share that Job"

func TestMain_ranks(t *testing.T) {
	two := []string{
		"rank 0 of 2: value [7 8], twice the mean [1 2], " + again,
		"rank 1 of 2: value [7 8], twice the mean [1 2], " + again,
	}
	t.Run("alone", func(t *testing.T) {
		t.Parallel()
		p := start(t, "own main")
		require.Zero(t, p.end(t), p.stderr.String())
		assert.Equal(t, []string{"closed: true, job: this process has joined the job already: share that Job, context canceled",
			"rank 0 of 1: value [7 8], twice the mean [0 2], " + again}, lines(p.stdout.String()))
	})
	t.Run("-n 2", func(t *testing.T) {
		t.Parallel()
		p := start(t, "mean", ranksVariable+"=2")
		require.Zero(t, p.end(t), p.stderr.String())
		assert.Equal(t, two, lines(p.stdout.String()))
		said := slices.DeleteFunc(lines(p.stderr.String()), func(line string) bool {
			return line == "" || strings.HasPrefix(line, "[./gloo/") // sid's says to whom it is connected
		})
		assert.Empty(t, said)
	})
	t.Run("under a launcher -n does not count, and hooks are in workers", func(t *testing.T) {
		t.Parallel()
		stdout, stderr, err := spawned(t, "worker")
		require.NoError(t, err, stderr)
		assert.Equal(t, two, lines(stdout))
	})
}

func TestMain_failures(t *testing.T) {
	t.Run("an error of one rank", func(t *testing.T) {
		t.Parallel()
		_, stderr, err := spawned(t, "error")
		var failed *launch.RankError
		require.ErrorAs(t, err, &failed)
		assert.Equal(t, 1, failed.ExitCode)
		assert.Equal(t, 1, strings.Count(stderr, "job, rank 1 of 2: the data is bad"), stderr)
		assert.Contains(t, stderr, "rank 0: the step failed on rank 1: ")
	})
	t.Run("a rank with fewer steps: an error of the others at once", func(t *testing.T) {
		t.Parallel()
		began := time.Now()
		_, stderr, err := spawned(t, "fewer steps")
		require.Error(t, err)
		assert.Contains(t, stderr, "rank 0: the step failed on rank 1: ")
		assert.Contains(t, stderr, "it closed its Reducer, after a failure of its own or fewer steps than others")
		assert.Less(t, time.Since(began), time.Minute)
	})
	t.Run("a rank with fewer steps, which does not close its flat.Sync", func(t *testing.T) {
		t.Parallel()
		began := time.Now()
		_, stderr, err := spawned(t, "fewer steps of flat")
		require.Error(t, err)
		assert.Contains(t, stderr, "rank 0: the step failed on rank 1: ")
		assert.Contains(t, stderr, "it closed its Reducer, after a failure of its own or fewer steps than others")
		assert.Less(t, time.Since(began), time.Minute)
	})
	t.Run("a hook that raises: the traceback once", func(t *testing.T) {
		t.Parallel()
		p := start(t, "hook raises", ranksVariable+"=2")
		require.Equal(t, 1, p.end(t))
		stderr := p.stderr.String()
		assert.Equal(t, 1, strings.Count(stderr, "Traceback (most recent call last)"), stderr)
		assert.Equal(t, 3, strings.Count(stderr, "ValueError: no such luck\n"), stderr) // the traceback has it too
		assert.Equal(t, 2, strings.Count(stderr, "\nhint: "), stderr)
		assert.Regexp(t, `: rank [01] failed first, with exit code 1: its error is above\n`, stderr)
	})
	t.Run("a hook that one rank cannot load is an error by its name on all", func(t *testing.T) {
		t.Parallel()
		_, stderr, err := spawned(t, "no hook on one")
		require.Error(t, err)
		assert.Contains(t, stderr, "job, rank 1 of 2: making hook fp61: hook fp61, rank 1: ")
		assert.Contains(t, stderr, "job, rank 0 of 2: making hook fp16: ddp, rank 0: rank 1 failed: hook fp61, rank 1: ")
	})
	t.Run("another hook on one rank, before the first step", func(t *testing.T) {
		t.Parallel()
		stdout, stderr, err := spawned(t, "other hooks")
		require.NoError(t, err, stderr)
		for _, text := range []string{
			"Options.Hook: Hook is torch.distributed.algorithms.ddp_comm_hooks.default_hooks.fp16_compress_hook on rank 0 and torch.distributed.algorithms.ddp_comm_hooks.default_hooks.allreduce_hook on rank 1\n",
			"powerSGD_hook with the state powersgd map[matrix_approximation_rank:1] on rank 0 and ",
			"powerSGD_hook with the state powersgd map[matrix_approximation_rank:2] on rank 1\n",
			"Options.Hook: Hook is none on rank 0 and hooks.py:raises_on_one on rank 1\n",
		} {
			assert.Equal(t, 2, strings.Count(stdout, text), "%s\n%s", text, stdout)
		}
		assert.Equal(t, 6, strings.Count(stdout, "\nhint: "), stdout) // ranks' lines may come in between
	})
	t.Run("values on one rank alone", func(t *testing.T) {
		t.Parallel()
		_, stderr, err := spawned(t, "other values on one")
		require.Error(t, err)
		assert.Equal(t, 2, strings.Count(stderr, "w has values (Parameter.Data) on one of the ranks 0 and 1 and none on the other"), stderr)
	})
	t.Run("values that drift apart", func(t *testing.T) {
		t.Parallel()
		stdout, stderr, err := spawned(t, "drift")
		require.Error(t, err)
		assert.Equal(t, []string{"step 0", "step 0", "step 1", "step 1", "step 2", "step 2"}, lines(stdout))
		assert.Equal(t, 2, strings.Count(stderr, "w: parameter 0, the first of them, has one value on rank 0, another on rank 1\n"), stderr)
		assert.Equal(t, 2, strings.Count(stderr, "\nhint: "), stderr)
	})
	t.Run("a panic", func(t *testing.T) {
		t.Parallel()
		p := start(t, "panic")
		assert.Equal(t, 2, p.end(t))
		assert.Contains(t, p.stderr.String(), "job, rank 0 of 1: panic: runtime error: index out of range [0] with length 0\n\ngoroutine ")
		report, err := os.ReadFile(p.errorFile)
		require.NoError(t, err)
		assert.Contains(t, string(report), "panic: runtime error: index out of range")
		assert.Contains(t, string(report), "job/main_test.go:")
	})
	t.Run("SIGTERM", func(t *testing.T) {
		t.Parallel()
		p := start(t, "sigterm")
		p.ready(t)
		require.NoError(t, p.cmd.Process.Signal(syscall.SIGTERM))
		assert.Equal(t, 143, p.end(t))
		assert.Contains(t, p.stderr.String(), "job, rank 0 of 1: launch: stopped by SIGTERM: context canceled\n")
		assert.NoFileExists(t, p.errorFile)
	})
}

func TestJoin(t *testing.T) {
	clean := func(t *testing.T, set map[string]string) {
		for _, name := range []string{"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"} {
			t.Setenv(name, set[name])
		}
	}
	ctx := context.Background()
	for name, c := range map[string]struct {
		cfg job.Config
		env map[string]string
		say string
	}{
		"ranks below none":        {cfg: job.Config{Ranks: -1}, say: "Config.Ranks is negative"},
		"ranks without a Spawn":   {cfg: job.Config{Ranks: 2}, say: "call Spawn(2) first in main"},
		"half a launcher":         {env: map[string]string{"RANK": "0"}, say: "WORLD_SIZE is not set although RANK is"},
		"a worker and a backend":  {cfg: job.Config{Backend: "gloo", Worker: &worker.Config{}}, say: "set Worker's own fields"},
		"a worker without Main":   {cfg: job.Config{Worker: &worker.Config{}}, say: worker.ErrNotArmed.Error()},
		"no such Python":          {cfg: job.Config{Python: pyhook.Config{Python: "/no/such/python"}}, say: "job, rank 0 of 1: joining the job: "},
		"no such Python, retried": {cfg: job.Config{Python: pyhook.Config{Python: "/no/such/python"}}, say: "/no/such/python"},
	} {
		t.Run(name, func(t *testing.T) {
			clean(t, c.env)
			_, err := job.Join(ctx, c.cfg)
			assert.ErrorContains(t, err, c.say)
		})
	}
}
