package launchers_test

import (
	"bytes"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// torchrun is a job of two ranks under torch's own launcher.
type torchrun struct {
	cmd    *exec.Cmd
	output bytes.Buffer
	done   chan error
}

// unable says why this torch's torchrun cannot start anything, or is empty:
// Debian's builds of torch 2.4 and later have no libuv, which it asks for.
var unable = sync.OnceValue(func() string {
	cmd := exec.Command(python, "-m", "torch.distributed.run", "-r", "1", "-t", "1", "--standalone", "--no_python", "true")
	cmd.Env = append(environment(), "USE_LIBUV=0")
	if out, _ := cmd.CombinedOutput(); bytes.Contains(out, []byte("without libuv support")) {
		return "upstream: torchrun asks for libuv, which this build of torch lacks"
	}
	return ""
})

// start runs pyhook with these arguments on two ranks.
func start(t *testing.T, args ...string) *torchrun {
	t.Helper()
	if why := unable(); why != "" {
		t.Skip(why)
	}
	// -r 1 -t 1 is what Debian 12's torchrun needs, and does no harm elsewhere.
	job := append([]string{"-m", "torch.distributed.run", "-r", "1", "-t", "1", "--max_restarts", "5", "--monitor_interval", "0.2",
		"--standalone", "--nnodes", "1", "--nproc_per_node", "2",
		"--log_dir", t.TempDir(), "--no_python", binary}, args...)
	r := &torchrun{cmd: exec.Command(python, job...), done: make(chan error, 1)}
	r.cmd.Stdout, r.cmd.Stderr = &r.output, &r.output
	r.cmd.Env = append(environment(), "USE_LIBUV=0") // Debian's torch is built without
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	require.NoError(t, r.cmd.Start())
	t.Cleanup(func() { _ = syscall.Kill(-r.cmd.Process.Pid, syscall.SIGKILL) })
	go func() { r.done <- r.cmd.Wait() }()
	return r
}

func (r *torchrun) wait(t *testing.T) {
	t.Helper()
	select {
	case err := <-r.done:
		require.NoError(t, err, "%s", r.output.String())
	case <-time.After(3 * time.Minute):
		_ = syscall.Kill(-r.cmd.Process.Pid, syscall.SIGKILL)
		require.Fail(t, "torchrun did not end", "%s", r.output.String())
	}
}

// ranks are the processes that run binary (which is this test's own), by rank.
// A rank's child, about to become a Python that the rank asks for its version,
// still looks like the rank and is not one.
func ranks() map[int]int {
	found := map[int]int{}
	folders, _ := filepath.Glob("/proc/[0-9]*")
	for _, folder := range folders {
		if !runsBinary(folder) || runsBinary("/proc/"+field(folder+"/status", "PPid:\t", "\n")) {
			continue
		}
		pid, _ := strconv.Atoi(filepath.Base(folder))
		if rank, err := strconv.Atoi(field(folder+"/environ", "RANK=", "\x00")); err == nil {
			found[rank] = pid
		}
	}
	return found
}

func runsBinary(folder string) bool {
	exe, err := os.Readlink(folder + "/exe")
	return err == nil && exe == binary
}

// field is what a line of the file has after its beginning, or "".
func field(file, begin, end string) string {
	text, _ := os.ReadFile(file)
	for line := range strings.SplitSeq(string(text), end) {
		if value, ok := strings.CutPrefix(line, begin); ok {
			return value
		}
	}
	return ""
}

// saved waits for the checkpoint of a step after the given one.
func saved(t *testing.T, r *torchrun, checkpoint string, after int) int {
	t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for time.Now().Before(deadline) {
		files, _ := filepath.Glob(checkpoint + ".step*.hook0")
		for _, file := range files {
			text := strings.TrimSuffix(strings.TrimPrefix(file, checkpoint+".step"), ".hook0")
			if step, err := strconv.Atoi(text); err == nil && step > after {
				return step
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
	require.Fail(t, "no further checkpoint", "after step %d\n%s", after, r.output.String())
	return 0
}

// replaced waits for the process that has a rank after the one of this id.
func replaced(t *testing.T, rank, former int) int {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if pid, ok := ranks()[rank]; ok && pid != former {
			return pid
		}
	}
	require.Fail(t, "the rank was not started again", "rank %d", rank)
	return 0
}

// TestAKilledRankCostsNothingButTime kills a rank twice as it trains and once
// as the restarted ranks start Python and look for each other.
func TestAKilledRankCostsNothingButTime(t *testing.T) {
	folder := t.TempDir()
	train := func(checkpoint string) *torchrun {
		return start(t, "train", "--hook", "powersgd", "--epochs", "12", "--checkpoint", checkpoint)
	}
	undisturbed := filepath.Join(folder, "undisturbed")
	train(undisturbed).wait(t)

	disturbed := filepath.Join(folder, "disturbed")
	job := train(disturbed)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	step, victim, pid := 0, 0, 0
	for kill := range 2 {
		step = saved(t, job, disturbed, step)
		time.Sleep(time.Duration(random.IntN(150)) * time.Millisecond)
		victim = random.IntN(2)
		var ok bool
		pid, ok = ranks()[victim]
		require.True(t, ok, "rank %d is not there", victim)
		t.Logf("kill %d: rank %d after step %d", kill, victim, step)
		require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
	}
	pid = replaced(t, victim, pid)
	delay := time.Duration(random.IntN(1200)) * time.Millisecond
	time.Sleep(delay)
	t.Logf("kill 2: rank %d, %s after its start", victim, delay)
	require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
	job.wait(t)
	assert.Equal(t, digest(t, undisturbed), digest(t, disturbed), "weights, momentum and step of the last checkpoint")
}
