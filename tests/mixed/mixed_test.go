package mixed_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/cbridge"
	"pyhook/internal/testutil"
	"pyhook/launch"
	"pyhook/pyhook"
	"pyhook/tensor"
)

const goRank = "PYHOOK_MIXED_RANK=go" // makes this binary a rank

const steps = 4

// firstHook is the environment's variable with the first hook that each job runs: fp16, or allreduce
// where this torch's gloo does not sum float16, as Debian sid's.
const firstHook = "PYHOOK_MIXED_HOOK"

// hooks of torch that each job runs in turn.
var hooks = []struct {
	name  string
	state any
}{
	{os.Getenv(firstHook), nil},
	{"powersgd", pyhook.StateSpec{Spec: "powersgd", Args: map[string]any{"matrix_approximation_rank": 2, "start_powerSGD_iter": 2}}},
}

// shapes of the parameters, all in one bucket: more would mix up PowerSGD's collectives in
// stock DDP on gloo.
var shapes = [][]int64{{16, 12}, {12}, {24, 16}, {24}}

func TestMain(m *testing.M) {
	if name, value, _ := strings.Cut(goRank, "="); os.Getenv(name) == value {
		err := serve()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(launch.Fail(err))
	}
	os.Exit(m.Run())
}

func TestRuntime_InitProcessGroup_withAPlainPythonRank(t *testing.T) {
	found, _, err := cbridge.Discover(context.Background(), "", "torch")
	require.NoError(t, err)
	inGo := func() *exec.Cmd {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), goRank)
		return cmd
	}
	inPython := func() *exec.Cmd {
		arguments := []string{"testdata/plain_rank.py", strconv.Itoa(steps)}
		for _, shape := range shapes {
			arguments = append(arguments, strings.Trim(strings.ReplaceAll(fmt.Sprint(shape), " ", "x"), "[]"))
		}
		cmd := exec.Command(found.Executable, arguments...)
		cmd.Env = append(os.Environ(), "USE_LIBUV=0") // for builds of torch without it
		return cmd
	}
	t.Setenv(firstHook, "fp16")
	if out, err := exec.Command(found.Executable, "-c", sumHalf).CombinedOutput(); err != nil {
		require.Contains(t, string(out), "Invalid scalar type")
		t.Setenv(firstHook, "allreduce")
	}
	stock := job(t, inPython(), inPython())
	require.Len(t, stock, steps*len(hooks))
	for name, ranks := range map[string][2]*exec.Cmd{
		"Go is rank 0":     {inGo(), inPython()},
		"Python is rank 0": {inPython(), inGo()},
	} {
		t.Run(name, func(t *testing.T) {
			assert.Equal(t, stock, job(t, ranks[0], ranks[1]), "the bits of two plain Python ranks")
		})
	}
}

const sumHalf = `
import torch, torch.distributed as dist
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
dist.all_reduce(torch.zeros(1, dtype=torch.float16))`

// job runs both ranks and returns the reduced gradients of each step, which are the same
// bytes on both.
func job(t *testing.T, ranks ...*exec.Cmd) []string {
	t.Helper()
	port := testutil.FreePort(t)
	var stdout, stderr [2]bytes.Buffer
	for i, rank := range ranks {
		rank.Env = append(rank.Env, "RANK="+strconv.Itoa(i), "WORLD_SIZE=2", "MASTER_ADDR=127.0.0.1", "MASTER_PORT="+port,
			"GLOO_SOCKET_IFNAME=lo", "OMP_NUM_THREADS=1")
		rank.Stdout, rank.Stderr = &stdout[i], &stderr[i]
		require.NoError(t, rank.Start())
		late := time.AfterFunc(2*time.Minute, func() { _ = rank.Process.Kill() })
		defer late.Stop()
	}
	failed := false
	for i, rank := range ranks {
		if err := rank.Wait(); err != nil {
			t.Errorf("rank %d: %v\n%s", i, err, stderr[i].String())
			failed = true
		}
	}
	if failed {
		t.FailNow()
	}
	lines := strings.Fields(stdout[0].String())
	require.Equal(t, lines, strings.Fields(stdout[1].String()), "the ranks' bits differ")
	return lines
}

// serve is the Go rank.
func serve() (err error) {
	if err := launch.DieWithParent(); err != nil {
		return err
	}
	ctx := context.Background()
	rt, err := pyhook.Start(ctx, pyhook.Config{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rt.Close()) }()
	group, err := rt.InitProcessGroup(ctx, pyhook.GroupConfig{Backend: "gloo", Timeout: time.Minute})
	if err != nil {
		return err
	}
	defer group.Close()
	bucket, values, err := newBucket()
	if err != nil {
		return err
	}
	defer bucket.Close()
	for _, h := range hooks {
		hook, err := rt.NewHook(context.Background(), h.name, pyhook.HookConfig{State: h.state})
		if err != nil {
			return err
		}
		defer hook.Close()
		for step := range steps {
			for i := range values {
				values[i] = float32((i*31+group.Rank()*17+step*7)%257-128) / 128
			}
			if err := reduce(ctx, hook, bucket); err != nil {
				return fmt.Errorf("%s, step %d: %w", h.name, step, err)
			}
		}
	}
	return group.Barrier(ctx)
}

func newBucket() (*c10d.GradBucket, []float32, error) {
	config := c10d.BucketConfig{Count: 1, Sizes: shapes}
	total := int64(0)
	for _, shape := range shapes {
		n := int64(1)
		for _, size := range shape {
			n *= size
		}
		config.Offsets, config.Lengths = append(config.Offsets, total), append(config.Lengths, n)
		total += n
	}
	buffer, err := tensor.New(tensor.Float32, total)
	if err != nil {
		return nil, nil, err
	}
	config.Buffer = buffer
	values, err := tensor.Slice[float32](buffer)
	if err != nil {
		return nil, nil, err
	}
	bucket, err := c10d.NewGradBucket(config)
	return bucket, values, err
}

// reduce calls the hook and prints the result's bytes.
func reduce(ctx context.Context, hook *pyhook.PythonCommHook, bucket *c10d.GradBucket) error {
	future, err := hook.RunHook(ctx, bucket)
	if err != nil {
		return err
	}
	defer future.Close()
	value, err := future.Wait(ctx)
	if err != nil {
		return err
	}
	result, err := hook.ParseHookResult(bucket, value)
	if err != nil {
		return err
	}
	defer result.Close()
	values, err := tensor.Slice[float32](result)
	if err != nil {
		return err
	}
	data, err := binary.Append(nil, binary.NativeEndian, values)
	if err != nil {
		return err
	}
	_, err = fmt.Println(hex.EncodeToString(data))
	return err
}
