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

	"pyhook/ddp"
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
	data, checkpoint                   string
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
	set.IntVar(&f.every, "every", 100, "steps between two checkpoints")
	set.IntVar(&f.digest, "digest-every", 100, "steps between two comparisons of the ranks' parameters; 0: none")
	set.StringVar(&f.hook.Hook, "hook", f.hook.Hook, "hook that reduces the gradients: PyTorch's by name, module:function, file.py:function; none")
	f.hook.AddStateFlags(set)
	if err := set.Parse(os.Args[1:]); errors.Is(err, pflag.ErrHelp) {
		return
	} else if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	job.Config{Ranks: f.ranks}.Main(func(ctx context.Context, j *job.Job) error { return p.train(ctx, j, f) })
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
		return fmt.Errorf("reading MNIST: %w (--data says where; a program built with -trimpath does not know)", err)
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
	r := &run{flags: f, group: j.Group(), hook: opts.DDP.Hook, model: model, size: j.Size(), rank: j.Rank()}
	if err := r.restore(ctx); err != nil {
		return err
	}
	if err := r.steps(ctx, train); err != nil {
		return err
	}
	if r.rank == 0 {
		right, seen, err := r.accuracy(test)
		if err != nil {
			return err
		}
		fmt.Printf("accuracy %.2f %% of %d test images\n", 100*float64(right)/float64(seen), seen)
	}
	return nil
}

// steps trains from r.first on.
func (r *run) steps(ctx context.Context, set Set) error {
	progress := report.NewProgress(os.Stderr)
	defer progress.Clear()
	start, reducing := time.Now(), time.Duration(0)
	for step := r.first; step < r.flags.steps; step++ {
		images, labels := r.part(step, set)
		loss, err := r.model.Train(ctx, images, labels)
		if err != nil {
			return fmt.Errorf("step %d: %w", step, err)
		}
		reducing += time.Duration(r.model.Reducer().LoggingData().BackwardCommTime)
		done := step + 1
		if r.rank == 0 {
			progress.Step("steps", done, r.flags.steps)
			if done%100 == 0 || done == r.flags.steps {
				took := time.Since(start)
				if err := progress.Print(fmt.Sprintf("step %4d  loss %.4f  %.1f ms a step, of it %.1f ms between a first hook call and a last result\n",
					done, loss, ms(took, done-r.first), ms(reducing, done-r.first))); err != nil {
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
	if r.rank == 0 {
		data := r.model.Reducer().LoggingData()
		fmt.Printf("%s, hook %s, %s in %s, %s of gradients a step\n", report.Count(r.size, "rank"), r.flags.hook.Hook,
			report.Count(data.NumParameterTensors, "parameter"), report.Count(len(data.BucketSizes), "bucket"), report.Bytes(uint64(data.TotalParameterSizeBytes)))
	}
	return nil
}

func ms(d time.Duration, steps int) float64 { return d.Seconds() * 1000 / float64(steps) }

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

// accuracy counts the images that the model knows, of those that make whole batches.
func (r *run) accuracy(set Set) (right, seen int, err error) {
	for at := 0; at+r.flags.batch <= len(set.Images); at += r.flags.batch {
		digits, err := r.model.Predict(set.Images[at : at+r.flags.batch])
		if err != nil {
			return 0, 0, err
		}
		for k, digit := range digits {
			if seen++; digit == set.Labels[at+k] {
				right++
			}
		}
	}
	return right, seen, nil
}
