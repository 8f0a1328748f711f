// Package mnist is what the example programs of the adapters have in common: it trains a model of
// some training library on MNIST's handwritten digits, on one rank or many, with the gradients
// reduced by any communication hook. What a library needs, its adapter's example has: see
// adapters/*/mnist.
package mnist

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"time"

	"github.com/spf13/pflag"

	"pyhook/c10d"
	"pyhook/ddp"
	"pyhook/internal/demo/checkpoint"
	"pyhook/internal/gather"
	"pyhook/internal/hookspec"
	"pyhook/internal/report"
	"pyhook/job"
)

// Pixels of an image, a byte each.
const Pixels = 28 * 28

// Classes are the digits.
const Classes = 10

// Set is images and the digits on them.
type Set struct {
	Images [][]byte
	Labels []byte
}

// first are the first n, or all.
func (s Set) first(n int) Set {
	n = min(n, len(s.Images))
	return Set{s.Images[:n], s.Labels[:n]}
}

// Loader has a Program load its images by load, of which GoMNIST.Load is one.
func Loader[S interface {
	Count() int
	Get(i int) (I, L)
}, I ~[]byte, L ~byte](load func(folder string) (train, test S, err error)) func(string) (train, test Set, err error) {
	set := func(from S) (s Set) {
		for i := range from.Count() {
			image, label := from.Get(i)
			s.Images, s.Labels = append(s.Images, image), append(s.Labels, byte(label))
		}
		return s
	}
	return func(folder string) (train, test Set, err error) {
		a, b, err := load(folder)
		if err != nil {
			return train, test, err
		}
		return set(a), set(b), nil
	}
}

// Model is a network of a training library that an adapter has made data-parallel.
type Model interface {
	// Train does one step on this rank's part of a batch and returns its mean loss.
	Train(ctx context.Context, images [][]byte, labels []byte) (loss float64, err error)
	// Predict returns the digits of as many images as Train gets.
	Predict(images [][]byte) ([]byte, error)
	// Values are the parameters' elements, in place, or copies if the model is a Setter.
	Values() [][]float32
	Digest(ctx context.Context) error
	Reducer() *ddp.Reducer
	Close()
}

// Setter is a Model whose values cannot be set in place.
type Setter interface{ SetValues([][]float32) error }

// Program is an example.
type Program struct {
	Name string
	Load func(folder string) (train, test Set, err error)
	// New makes a model with the values of a seed, for batches of so many images.
	New func(ctx context.Context, seed uint64, batch int, opts Options) (Model, error)
}

// Options are what New gets.
type Options struct {
	DDP ddp.Options
	LR  float64
}

// flags are the program's.
type flags struct {
	ranks, batch, steps, every, digest int
	lr                                 float64
	seed                               uint64
	data, checkpoint, plot             string
	hook                               hookspec.Spec
}

// Main is the program's main. origin is a function of the module that has the data beside it.
func (p Program) Main(origin any) {
	f := flags{ranks: 1, hook: hookspec.Spec{Hook: "allreduce"}}
	set := pflag.NewFlagSet(p.Name, pflag.ContinueOnError)
	set.IntVarP(&f.ranks, "ranks", "n", 1, "start so many ranks on this machine; without it, be the one that a launcher (torchrun, Slurm, MPI) started, or alone")
	set.IntVar(&f.batch, "batch", 32, "images of a rank's part of a step")
	set.IntVar(&f.steps, "steps", 900, "steps to train")
	set.Float64Var(&f.lr, "lr", 0.1, "learning rate")
	set.Uint64Var(&f.seed, "seed", 1, "of the parameters and of the order of images")
	set.StringVar(&f.data, "data", dataOf(origin), "folder with MNIST's four .gz files")
	set.StringVar(&f.checkpoint, "checkpoint", "", "`file` to go on from, if it is there, and to save to, with the hook's state beside it")
	set.StringVar(&f.plot, "plot", "", "draw loss, accuracy and the time of a step to a PNG `file`")
	set.IntVar(&f.every, "every", 100, "steps between two checkpoints")
	set.IntVar(&f.digest, "digest-every", 100, "steps between two comparisons of the ranks' parameters; 0: none")
	set.StringVar(&f.hook.Hook, "hook", f.hook.Hook, "hook that reduces the gradients: PyTorch's by name, module:function, file.py:function; none")
	f.hook.AddStateFlags(set)
	if err := set.Parse(os.Args[1:]); errors.Is(err, pflag.ErrHelp) {
		return
	} else if err = errors.Join(err, f.check()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	job.Config{Ranks: f.ranks}.Main(func(ctx context.Context, j *job.Job) error { return p.train(ctx, j, f) })
}

// check says what no run can be made with.
func (f flags) check() error {
	for _, n := range []struct {
		name    string
		is, min int
	}{{"ranks", f.ranks, 1}, {"batch", f.batch, 1}, {"steps", f.steps, 1}, {"every", f.every, 1}, {"digest-every", f.digest, 0}} {
		if n.is < n.min {
			return fmt.Errorf("--%s must be %d or more", n.name, n.min)
		}
	}
	if f.plot != "" && filepath.Ext(f.plot) != ".png" {
		return fmt.Errorf("--plot %s: it draws a .png", f.plot)
	}
	return nil
}

// alike are the flags that every rank must have alike.
func (f flags) alike() string {
	return fmt.Sprintf("--batch %d --steps %d --lr %g --seed %d --every %d --digest-every %d --hook %s, state %s %q, --checkpoint %t --plot %t",
		f.batch, f.steps, f.lr, f.seed, f.every, f.digest, f.hook.Hook, f.hook.State, f.hook.StateArgs, f.checkpoint != "", f.plot != "")
}

// sameOnAll checks that all ranks say the same: a collective.
func sameOnAll(ctx context.Context, group c10d.ProcessGroup, what, mine string) error {
	all, err := gather.JSON(ctx, group, mine)
	if err != nil {
		return err
	}
	for rank := range all {
		if all[rank] != all[0] {
			return fmt.Errorf("%s %s on rank 0, and %s on rank %d", what, all[0], all[rank], rank)
		}
	}
	return nil
}

// dataOf is the folder data beside a function's source, in the module cache.
func dataOf(function any) string {
	file, _ := runtime.FuncForPC(reflect.ValueOf(function).Pointer()).FileLine(0)
	return filepath.Join(filepath.Dir(file), "data")
}

// train is one rank's part.
func (p Program) train(ctx context.Context, j *job.Job, f flags) error {
	train, test, err := p.Load(f.data)
	if err != nil {
		err = fmt.Errorf("reading MNIST: %w (--data says where; a program built with -trimpath does not know)", err)
	}
	if err := ddp.ShareError(ctx, j.Group(), err); err != nil {
		return err
	}
	if whole := f.batch * j.Size(); whole > len(train.Images) || f.batch > len(test.Images) {
		return fmt.Errorf("--batch %d on %s: MNIST has %d images to train with and %d to test", f.batch, report.Count(j.Size(), "rank"), len(train.Images), len(test.Images))
	}
	if err := sameOnAll(ctx, j.Group(), "the flags are", f.alike()); err != nil {
		return err
	}
	opts := Options{DDP: ddp.Options{Group: j.Group(), DigestEvery: f.digest}, LR: f.lr}
	if f.hook.Hook != "none" {
		hook, closeHook, err := f.hook.Make(ctx, j.Runtime(), j.TorchGroup(), nil)
		if err == nil {
			defer closeHook()
		}
		if err := ddp.ShareError(ctx, j.Group(), err); err != nil {
			return err
		}
		opts.DDP.Hook = hook
	}
	model, err := p.New(ctx, f.seed, f.batch, opts)
	if err != nil {
		return err
	}
	defer model.Close()
	r := &run{flags: f, group: j.Group(), model: model, size: j.Size(), rank: j.Rank(),
		keeper: checkpoint.Keeper{Path: f.checkpoint, Group: j.Group(), Hook: opts.DDP.Hook}}
	if err := r.restore(ctx); err != nil {
		return err
	}
	chart, err := r.newChart(ctx)
	if err != nil {
		return err
	}
	if err := r.steps(ctx, train, test, chart); err != nil {
		return err
	}
	if r.rank > 0 {
		return nil
	}
	accuracy, err := r.accuracy(test)
	if err != nil {
		return err
	}
	fmt.Printf("accuracy %.2f %% of %d test images\n", accuracy, len(test.Images)/f.batch*f.batch)
	return chart.write()
}

// steps trains from r.first on.
func (r *run) steps(ctx context.Context, set, test Set, chart *chart) error {
	progress := report.NewProgress(os.Stderr)
	defer progress.Clear()
	var all split
	for step := r.first; step < r.flags.steps; step++ {
		images, labels := r.part(step, set)
		start := time.Now()
		loss, err := r.model.Train(ctx, images, labels)
		if err != nil {
			return fmt.Errorf("step %d: %w", step, err)
		}
		took := newSplit(time.Since(start), r.model.Reducer().LoggingData())
		all.compute, all.reduce = all.compute+took.compute, all.reduce+took.reduce
		done := step + 1
		if err := chart.add(done, loss, took, func(images int) (float64, error) { return r.accuracy(test.first(max(images, r.flags.batch))) }); err != nil {
			return err
		}
		if r.rank == 0 {
			progress.Step("steps", done, r.flags.steps)
			if done%100 == 0 || done == r.flags.steps {
				n := float64(done - r.first)
				if _, err := fmt.Fprintf(progress, "step %4d  loss %.4f  a step %.1f ms: computing %.1f, reducing %.1f\n",
					done, loss, ms(all.compute+all.reduce)/n, ms(all.compute)/n, ms(all.reduce)/n); err != nil {
					return err
				}
			}
		}
		if done%r.flags.every == 0 || done == r.flags.steps {
			if err := r.save(ctx, done); err != nil {
				return err
			}
		}
	}
	if r.flags.digest > 0 { // what the last steps made
		if err := r.model.Digest(ctx); err != nil {
			return err
		}
	}
	if r.rank == 0 && r.first < r.flags.steps { // a model may make its Reducer in its first step
		data := r.model.Reducer().LoggingData()
		fmt.Printf("%s, hook %s, %s in %s, %s of gradients a step\n", report.Count(r.size, "rank"), r.flags.hook.Hook,
			report.Count(data.NumParameterTensors, "parameter"), report.Count(len(data.BucketSizes), "bucket"), report.Bytes(uint64(data.TotalParameterSizeBytes)))
	}
	return nil
}

// split is the time of a step on this rank, or of several.
type split struct {
	compute time.Duration
	reduce  time.Duration // between the first hook call and the last result, but for what the backward pass covers
}

func newSplit(whole time.Duration, data ddp.LoggingData) split {
	reduce := min(whole, time.Duration(data.BackwardCommTime-data.BackwardComputeCommOverlapTime))
	return split{whole - reduce, reduce}
}

func ms(d time.Duration) float64 { return d.Seconds() * 1000 }

// part is this rank's of a step's images: all ranks together take batch times ranks of them, in an
// order of the seed's, so that 2 ranks of 32 see what 1 of 64 sees.
func (r *run) part(step int, set Set) (images [][]byte, labels []byte) {
	whole := r.flags.batch * r.size
	perEpoch := max(1, len(set.Images)/whole)
	epoch, at := step/perEpoch, step%perEpoch*whole+r.rank*r.flags.batch
	if r.order == nil || r.epoch != epoch {
		r.epoch, r.order = epoch, rand.New(rand.NewPCG(r.flags.seed, uint64(epoch))).Perm(len(set.Images))
	}
	for _, i := range r.order[at : at+r.flags.batch] {
		images, labels = append(images, set.Images[i]), append(labels, set.Labels[i])
	}
	return images, labels
}

// accuracy is the percentage of the images that the model knows, of those that make whole batches.
func (r *run) accuracy(set Set) (float64, error) {
	right, seen := 0, 0
	for at := 0; at+r.flags.batch <= len(set.Images); at += r.flags.batch {
		digits, err := r.model.Predict(set.Images[at : at+r.flags.batch])
		if err != nil {
			return 0, err
		}
		for k, digit := range digits {
			if seen++; digit == set.Labels[at+k] {
				right++
			}
		}
	}
	return 100 * float64(right) / float64(seen), nil
}
