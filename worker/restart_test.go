package worker_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/c10d"
	"pyhook/ddp"
	"pyhook/tensor"
	"pyhook/tests/deep"
	"pyhook/worker"
)

// What a rank is at.
const (
	stepping int32 = iota
	between
	restarting
)

var phases = []string{"in a step", "between steps", "in Restart"}

// TestWorker_Restart_Kills: workers of a PowerSGD run are killed in hook
// calls, in collectives, in snapshots, between steps and while they restart. The
// weights at the end are bit by bit those of the run in which nothing happened.
func TestWorker_Restart_Kills(t *testing.T) {
	t.Run("kills at any moment change nothing", func(t *testing.T) {
		const size = 2
		kills := min(deep.Times(t, 5), 50)
		steps := killEvery*kills + 8
		for _, seed := range []uint64{1} {
			t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
				workers := start(t, size, worker.Config{Timeout: 20 * time.Second, StartTimeout: 30 * time.Second})
				want := enduring(t, workers, steps, nil)
				got := enduring(t, workers, steps, &killer{kills: kills, random: rand.New(rand.NewPCG(seed, 0))})
				assert.Equal(t, want, got)
				assert.Equal(t, want[0], want[1], "the ranks' weights are alike")
			})
		}
	})
}

// enduring trains on all ranks, and returns digests of their weights.
func enduring(t *testing.T, workers []*worker.Worker, steps int, k *killer) []string {
	t.Helper()
	trainers := make([]*trainer, len(workers))
	for rank, w := range workers {
		trainers[rank] = &trainer{w: w, steps: steps, kept: map[int][][]float32{}, spared: make(chan struct{})}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	done := make(chan error, 1)
	if k == nil {
		for _, tr := range trainers {
			close(tr.spared)
		}
		done <- nil
	} else {
		go func() {
			err := k.run(ctx, trainers)
			for _, tr := range trainers {
				close(tr.spared)
			}
			done <- err
		}()
	}
	errs := onRanks(len(workers), func(rank int) error {
		err := trainers[rank].train(ctx)
		if err != nil {
			cancel()
		}
		return err
	})
	require.NoError(t, errors.Join(errs...))
	require.NoError(t, <-done)
	digests := make([]string, len(trainers))
	restarts := 0
	for rank, tr := range trainers {
		digest := sha256.New()
		fmt.Fprint(digest, tr.weights)
		digests[rank] = fmt.Sprintf("%x", digest.Sum(nil))
		restarts += tr.restarts
	}
	if k != nil {
		t.Logf("%d kills: %v; %d restarts, %d tries of one that failed", k.kills, k.counts(), restarts, trainers[0].failed+trainers[1].failed)
		if k.kills >= 50 { // of a few, none may fall between two steps
			for phase, n := range k.hits {
				assert.Positive(t, n, phases[phase])
			}
		}
	}
	return digests
}

// trainer is a rank that takes lost steps again: it keeps the weights of the last
// steps, and goes back to where the hook's state is.
type trainer struct {
	w      *worker.Worker
	steps  int
	spared chan struct{} // closed: no more kills

	weights [][]float32
	kept    map[int][][]float32 // by the steps that they have seen
	phase   atomic.Int32
	step    atomic.Int64 // the highest yet

	restarts, failed int
}

func (tr *trainer) train(ctx context.Context) error {
	params := model()
	for _, p := range params {
		n := int64(1)
		for _, size := range p.Shape {
			n *= size
		}
		tr.weights = append(tr.weights, make([]float32, n))
	}
	h, err := tr.w.NewHook(ctx, "powersgd", worker.HookConfig{State: worker.State{Spec: "powersgd", Args: powerSGD}, SnapshotEvery: 1})
	if err != nil {
		return err
	}
	defer h.Close()
	r, err := ddp.NewReducer(ctx, params, ddp.Options{Group: tr.w.Group(), Hook: h, BucketCapMB: bucketCap, Agreement: ddp.AgreementNone})
	if err != nil {
		return err
	}
	defer r.Close()
	for step := 0; step < tr.steps; {
		tr.kept[step] = clone(tr.weights)
		delete(tr.kept, step-3)
		tr.between(ctx, step)
		tr.phase.Store(stepping)
		err := tr.reduce(ctx, r, step)
		if err == nil {
			step++
			continue
		}
		var failed *ddp.StepError
		if !errors.As(err, &failed) {
			return fmt.Errorf("step %d: %w", step, err)
		}
		if step, err = tr.restart(ctx); err != nil {
			return err
		}
		if tr.kept[step] == nil {
			return fmt.Errorf("restored to step %d, of which no weights are kept", step)
		}
		tr.weights = clone(tr.kept[step])
	}
	tr.phase.Store(between)
	return nil
}

func clone(weights [][]float32) [][]float32 {
	out := make([][]float32, len(weights))
	for i := range weights {
		out[i] = slices.Clone(weights[i])
	}
	return out
}

// between is the rest of a step. Nobody takes the last ones before the last kill,
// since a rank that has left does not come back for one that lost a step.
func (tr *trainer) between(ctx context.Context, step int) {
	tr.step.Store(max(tr.step.Load(), int64(step)))
	tr.phase.Store(between)
	time.Sleep(time.Millisecond)
	if step >= tr.steps-4 {
		select {
		case <-tr.spared:
		case <-ctx.Done():
		}
	}
}

// reduce takes a step: its gradients depend on rank, step and weights.
func (tr *trainer) reduce(ctx context.Context, r *ddp.Reducer, step int) error {
	random := rand.New(rand.NewPCG(uint64(tr.w.Group().Rank()), uint64(step)))
	for i := len(tr.weights) - 1; i >= 0; i-- {
		g, err := tensor.Slice[float32](r.Gradient(i))
		if err != nil {
			return err
		}
		for k := range g {
			g[k] = float32(random.NormFloat64()) + tr.weights[i][k]
		}
		if err := r.Ready(i); err != nil {
			return err
		}
	}
	if _, err := r.Wait(ctx); err != nil {
		return err
	}
	for i := range tr.weights {
		g, err := tensor.Slice[float32](r.Gradient(i))
		if err != nil {
			return err
		}
		for k := range g {
			tr.weights[i][k] -= 0.1 * g[k]
		}
	}
	return nil
}

// restart tries until it comes to be, and returns the step to go on with.
func (tr *trainer) restart(ctx context.Context) (int, error) {
	tr.phase.Store(restarting)
	for try := 0; ; try++ {
		recovery, err := tr.w.Restart(ctx)
		if err == nil {
			tr.restarts++
			return int(recovery.Restored[0]), nil
		}
		tr.failed++
		var failed *worker.Error
		var hook *c10d.Error
		if try == 20 || ctx.Err() != nil || !errors.As(err, &failed) && !errors.As(err, &hook) {
			return 0, fmt.Errorf("Restart, try %d: %w", try, err)
		}
	}
}

// killEvery so many steps a worker is killed.
const killEvery = 2

// killer sends SIGKILL to workers at random moments.
type killer struct {
	kills  int
	random *rand.Rand
	hits   [3]int // by phase
}

func (k *killer) counts() (text []string) {
	for phase, n := range k.hits {
		text = append(text, fmt.Sprint(n, " ", phases[phase]))
	}
	return text
}

func (k *killer) run(ctx context.Context, trainers []*trainer) error {
	for i := range k.kills {
		rank := k.random.IntN(len(trainers))
		tr := trainers[rank]
		phase, delay := stepping, time.Duration(k.random.Int64N(int64(6*time.Millisecond)))
		switch i % 5 {
		case 2:
			phase, delay = between, time.Duration(k.random.Int64N(int64(time.Millisecond)))
		case 1, 4: // the restart that the kill before it caused
			phase, delay = restarting, time.Duration(k.random.Int64N(int64(1500*time.Millisecond)))
		}
		due := int64(killEvery * (i + 1))
		if phase == restarting {
			due = 0
		}
		// A phase that does not come again is as good as another.
		for end := time.Now().Add(20 * time.Second); (tr.phase.Load() != phase || tr.step.Load() < due) && time.Now().Before(end) && ctx.Err() == nil; {
			time.Sleep(50 * time.Microsecond)
		}
		time.Sleep(delay)
		for ctx.Err() == nil {
			at := tr.phase.Load()
			if pid := workerOf(rank); pid > 0 && syscall.Kill(pid, syscall.SIGKILL) == nil {
				k.hits[at]++
				break
			}
			time.Sleep(time.Millisecond) // its former process has ended, and another is to come
		}
	}
	return ctx.Err()
}

// workerOf returns the process of a rank's worker, also of one that is starting; 0:
// there is none now.
func workerOf(rank int) int {
	lists, _ := filepath.Glob("/proc/self/task/*/children")
	for _, list := range lists {
		data, _ := os.ReadFile(list) // a thread that ended meanwhile has none
		for _, child := range strings.Fields(string(data)) {
			env, _ := os.ReadFile("/proc/" + child + "/environ") // of a zombie: nothing
			vars := strings.Split(string(env), "\x00")
			if slices.Contains(vars, "PYHOOK_WORKER=1") && slices.Contains(vars, "RANK="+strconv.Itoa(rank)) {
				pid, _ := strconv.Atoi(child)
				return pid
			}
		}
	}
	return 0
}
