package launchers_test

import (
	"bytes"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/internal/testutil"
)

// torchrun is a process of torch's own launcher: an agent, which starts ranks.
type torchrun struct {
	cmd  *exec.Cmd
	file string // what it and its ranks wrote
	done chan error
}

// output is what the agent and its ranks have written.
func (r *torchrun) output() string {
	text, _ := os.ReadFile(r.file)
	return torchrunPrefix.ReplaceAllString(string(text), "")
}

// unable returns why this torch's torchrun cannot start anything, or "": it requires libuv,
// which Debian's builds of torch 2.4 and later lack.
var unable = sync.OnceValue(func() string {
	cmd := exec.Command(python, "-m", "torch.distributed.run", "-r", "1", "-t", "1", "--standalone", "--no_python", "true")
	cmd.Env = append(environment(), "USE_LIBUV=0")
	if out, _ := cmd.CombinedOutput(); bytes.Contains(out, []byte("without libuv support")) {
		return "upstream: torchrun asks for libuv, which this build of torch lacks"
	}
	return ""
})

// start runs pyhook with these arguments on two ranks of one machine.
func start(t *testing.T, args ...string) *torchrun {
	t.Helper()
	return agent(t, "--standalone --nnodes 1 --nproc_per_node 2", args...)
}

// agent runs pyhook with these arguments under torchrun with these options.
func agent(t *testing.T, options string, args ...string) *torchrun {
	t.Helper()
	if why := unable(); why != "" {
		t.Skip(why)
	}
	folder := t.TempDir()
	// -r 1 -t 1 is what Debian 12's torchrun needs, and does no harm elsewhere.
	job := strings.Fields("-m torch.distributed.run -r 1 -t 1 --max_restarts 5 --monitor_interval 0.2 --log_dir " + folder + " " + options)
	job = append(append(job, "--no_python", binary), args...)
	r := &torchrun{cmd: exec.Command(python, job...), file: filepath.Join(folder, "output"), done: make(chan error, 1)}
	file, err := os.Create(r.file)
	require.NoError(t, err)
	defer file.Close()
	r.cmd.Stdout, r.cmd.Stderr = file, file
	r.cmd.Env = append(environment(), "USE_LIBUV=0", // Debian's torch is built without
		"TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1") // else a machine that joins later ends the job, on torch 2.15
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	require.NoError(t, r.cmd.Start())
	t.Cleanup(r.kill)
	go func() { r.done <- r.cmd.Wait() }()
	return r
}

// kill ends the agent at once; its ranks die with it.
func (r *torchrun) kill() { _ = syscall.Kill(-r.cmd.Process.Pid, syscall.SIGKILL) }

func (r *torchrun) wait(t *testing.T) {
	t.Helper()
	select {
	case err := <-r.done:
		require.NoError(t, err, "%s", r.output())
	case <-time.After(3 * time.Minute):
		r.kill()
		require.Fail(t, "torchrun still runs", "%s", r.output())
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
	require.Fail(t, "no further checkpoint", "after step %d\n%s", after, r.output())
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

func TestTorchrun_restart(t *testing.T) {
	// Kills a rank twice while it trains, and once while the restarted ranks start Python and meet.
	t.Run("a killed rank costs nothing but time", func(t *testing.T) {
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
	})
	// With a range of sizes, a second machine joins while the first one trains, and dies. Each time
	// the job restarts with the machines that there are.
	t.Run("the number of machines may change", func(t *testing.T) {
		options := "--nnodes 1:2 --nproc_per_node 1 --rdzv_backend c10d --rdzv_id job --rdzv_conf last_call_timeout=1 --rdzv_endpoint 127.0.0.1:" +
			strconv.Itoa(port(t))
		// Both save their hook's state, which nobody reads: a state is for one number of ranks.
		folder := t.TempDir()
		saves := filepath.Join(folder, "digits")
		// Steps take time, and no CPU, until the second machine is dead: it can join while they last.
		dead := filepath.Join(folder, "the second machine is dead")
		t.Setenv("PYHOOK_TEST_GO_ON", dead)
		const epochs = 40
		machine := func() *torchrun {
			return agent(t, options, "train", "--hook", absolute(t, "tests/launchers/testdata/slow_hooks.py")+":powersgd", "--state", "powersgd",
				"--epochs", strconv.Itoa(epochs), "--save", saves, "--timeout", "10s", "--json")
		}
		saved := func(r *torchrun, rank string) {
			t.Helper()
			testutil.Eventually(t, func() bool {
				files, _ := filepath.Glob(saves + ".step*.hook" + rank)
				return len(files) > 0
			}, "rank %s does not train\n%s", rank, r.output())
		}
		first := machine()
		saved(first, "0")
		second := machine()
		saved(first, "1")
		second.kill()
		require.NoError(t, os.WriteFile(dead, nil, 0o600))
		first.wait(t)
		sizes := regexp.MustCompile(`rank 0 of (\d) \(`).FindAllStringSubmatch(first.output(), -1)
		require.Len(t, sizes, 3, "%s", first.output())
		assert.Equal(t, [3]string{"1", "2", "1"}, [3]string{sizes[0][1], sizes[1][1], sizes[2][1]})
		got := parsed(t, first.output())
		assert.Equal(t, report{"env", 0, 1, epochs * 22, true, got.WeightsSHA}, got)
	})
}
