package ddp_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/ddp"
	"pyhook/launch"
	"pyhook/pyhook"
)

// folderVariable makes this binary one rank, which writes its report there.
const folderVariable = "DDP_TEST_FOLDER"

// report is what a rank did: the gradients of each way to reduce, and the error
// of the parameter lists that differ.
type report struct {
	Default, AllReduce, PowerSGD []float32
	Order                        ddp.Order
	Mismatch                     string
}

var rankShapes = [][]int64{{16, 4}, {4}, {8, 8}, {8}, {4, 16}, {16}, {8, 8}}

// localGradients are a rank's gradients of a step, all parameters' in a row:
// whole numbers, whose mean of two ranks is exact.
func localGradients(rank, step int) []float32 {
	random := rand.New(rand.NewPCG(uint64(rank), uint64(step)))
	flat := make([]float32, 64+4+64+8+64+16+64)
	for i := range flat {
		flat[i] = float32(random.IntN(2000) - 1000)
	}
	return flat
}

func TestTwoRealRanks(t *testing.T) {
	reports := spawnRanks(t)
	for rank, r := range reports {
		var want []float32
		for step := range 2 {
			a, b := localGradients(0, step), localGradients(1, step)
			for i := range a {
				want = append(want, (a[i]+b[i])/2)
			}
		}
		assert.Equal(t, want, r.Default, "rank %d: the mean without a hook", rank)
		assert.Equal(t, want, r.AllReduce, "rank %d: the mean by the Python hook", rank)
		assert.Len(t, r.PowerSGD, 20*len(localGradients(0, 0)))
		assert.Equal(t, ddp.OrderSerial, r.Order, "PowerSGD on gloo")
		assert.Contains(t, r.Mismatch, fmt.Sprintf("rank %d: the ranks' parameter lists or options differ: p3: "+
			"parameter 3 is p3 [8] float32 on rank 0 and p3 [9] float32 on rank 1", rank))
	}
	assert.True(t, sameBits(reports[0].PowerSGD, reports[1].PowerSGD), "PowerSGD's results differ between the ranks")
}

func spawnRanks(t *testing.T) []report {
	t.Helper()
	folder := t.TempDir()
	executable, err := os.Executable()
	require.NoError(t, err)
	var output strings.Builder
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	err = launch.Spawn(ctx, launch.SpawnConfig{Command: []string{executable}, N: 2, GracePeriod: time.Second, Stdout: &output, Stderr: &output,
		Env: append(os.Environ(), folderVariable+"="+folder, "GORACE=atexit_sleep_ms=0 "+os.Getenv("GORACE"))})
	require.NoError(t, err, output.String())
	reports := make([]report, 2)
	for rank := range reports {
		text, err := os.ReadFile(filepath.Join(folder, strconv.Itoa(rank)))
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(text, &reports[rank]))
	}
	return reports
}

// beRank does a rank's part and writes its report.
func beRank(folder string) int {
	r, err := rankReport()
	if err == nil {
		text := must(json.Marshal(r))
		err = os.WriteFile(filepath.Join(folder, strconv.Itoa(world.Rank())), text, 0o600)
	}
	return launch.Fail(err)
}

func rankReport() (r report, err error) {
	if r.Default, _, err = train(nil, 2); err != nil {
		return r, fmt.Errorf("the default hook: %w", err)
	}
	allreduce, err := rt.NewHook(context.Background(), "allreduce", pyhook.HookConfig{State: world})
	if err != nil {
		return r, err
	}
	defer allreduce.Close()
	if r.AllReduce, _, err = train(allreduce, 2); err != nil {
		return r, fmt.Errorf("allreduce: %w", err)
	}
	state, err := rt.NewState(context.Background(), "powersgd", map[string]any{"matrix_approximation_rank": 2, "start_powerSGD_iter": 2, "min_compression_rate": 1}, world)
	if err != nil {
		return r, err
	}
	defer state.Close()
	powersgd, err := rt.NewHook(context.Background(), "powersgd", pyhook.HookConfig{State: state})
	if err != nil {
		return r, err
	}
	defer powersgd.Close()
	if r.PowerSGD, r.Order, err = train(powersgd, 20); err != nil {
		return r, fmt.Errorf("powersgd: %w", err)
	}

	params := parameters(rankShapes...)
	if world.Rank() == 1 {
		params[3].Shape = []int64{9}
	}
	_, mismatch := ddp.NewReducer(context.Background(), params, ddp.Options{Group: world})
	if !errors.Is(mismatch, ddp.ErrMismatch) {
		return r, fmt.Errorf("lists that differ: %w", mismatch)
	}
	r.Mismatch = mismatch.Error()
	return r, world.Barrier(context.Background())
}

// train does steps with 4 buckets and returns all reduced gradients in a row.
func train(h c10d.CommHook, steps int) (all []float32, order ddp.Order, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	params := parameters(rankShapes...)
	defer closeParameters(params)
	r, err := ddp.NewReducer(ctx, params, ddp.Options{Group: world, Hook: h, BucketCapMB: 256.0 / (1 << 20)})
	if err != nil {
		return nil, 0, err
	}
	defer r.Close()
	if n := len(r.Buckets()); n != 4 {
		return nil, 0, fmt.Errorf("%d buckets, not 4: %v", n, r.Buckets())
	}
	for step := range steps {
		local := localGradients(world.Rank(), step)
		// Each rank in an order of its own.
		for _, i := range rand.New(rand.NewPCG(uint64(world.Rank()), 9)).Perm(len(params)) {
			offset := 0
			for k := range i {
				offset += int(r.Gradient(k).Len())
			}
			copy(floats(r.Gradient(i)), local[offset:])
			if err := r.Ready(i); err != nil {
				return nil, 0, err
			}
		}
		if _, err := r.Wait(ctx); err != nil {
			return nil, 0, fmt.Errorf("step %d: %w", step, err)
		}
		for i := range params {
			all = append(all, floats(r.Gradient(i))...)
		}
	}
	return all, r.Order(), nil
}
