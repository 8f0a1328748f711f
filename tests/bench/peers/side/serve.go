package side

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"time"
)

// Bench is a case that a peer has opened.
type Bench interface {
	// Bucket of a caller. Its memory is where the peer wants a trainer's buckets.
	Bucket(caller int) []float32
	// Call has the hook reduce a caller's bucket, and returns when the result is in it.
	Call(caller int) error
	// Copied is the number of bytes that a call has copied, besides what the hook does; atLeast: of
	// some copies we do not know.
	Copied() (bytes int64, atLeast bool)
	Close() error
}

// Threaded is a Bench whose calls by one caller have a thread of their own, on which Run runs f.
type Threaded interface{ Run(f func()) error }

// Serve takes orders until there are no more. rank is this process's, of Case allreduce.
func Serve(ctx context.Context, rank int, open func(context.Context, Case) (Bench, error)) (err error) {
	from, to := json.NewDecoder(os.NewFile(ordersFD, "orders")), json.NewEncoder(os.NewFile(answerFD, "answers"))
	var bench Bench
	var opened Case
	defer func() {
		if bench != nil {
			err = errors.Join(err, bench.Close())
		}
	}()
	for {
		var o Order
		if err := from.Decode(&o); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if o.Case != opened {
			if bench != nil {
				if err := bench.Close(); err != nil {
					return err
				}
			}
			if bench, err = open(ctx, o.Case); err != nil {
				return errors.Join(err, to.Encode(Answer{Error: err.Error()}))
			}
			opened = o.Case
		}
		answer, err := carryOut(bench, o, rank)
		if err != nil {
			answer.Error = err.Error()
		}
		if err := to.Encode(answer); err != nil {
			return err
		}
	}
}

func carryOut(b Bench, o Order, rank int) (Answer, error) {
	if err := check(b, o.Case, rank); err != nil || o.Calls == 0 {
		return Answer{}, err
	}
	var a Answer
	var err error
	if o.Endure {
		a, err = endure(b, o)
	} else {
		a, err = timed(b, o)
	}
	if err != nil {
		return a, err
	}
	a.Copied, a.AtLeast = b.Copied()
	return a, compare(b, o.Case, rank) // every hook but negated does nothing more to its own result
}

// check calls the hook once for each caller, and compares the buckets with what the hook makes.
func check(b Bench, c Case, rank int) error {
	for caller := range c.Callers {
		fill(b.Bucket(caller), rank)
		if err := b.Call(caller); err != nil {
			return err
		}
	}
	return compare(b, c, rank)
}

func compare(b Bench, c Case, rank int) error {
	want := make([]float32, c.Bytes/4)
	fill(want, rank)
	if err := expect(c.Hook, want, rank); err != nil {
		return err
	}
	for caller := range c.Callers {
		if got := b.Bucket(caller); !slices.Equal(got, want) {
			return fmt.Errorf("hook %s, caller %d: the bucket is not what the hook makes of it", c.Hook, caller)
		}
	}
	return nil
}

// timed has the first caller call.
func timed(b Bench, o Order) (Answer, error) {
	ns := make([]int64, o.Calls)
	var err error
	loop := func() {
		start := time.Now()
		var before time.Duration
		for i := range ns {
			if err = b.Call(0); err != nil {
				return
			}
			after := time.Since(start)
			ns[i], before = int64(after-before), after
		}
	}
	if t, ok := b.(Threaded); ok {
		err = errors.Join(t.Run(loop), err)
	} else {
		loop()
	}
	if err != nil {
		return Answer{}, err
	}
	wall := int64(0)
	for _, n := range ns {
		wall += n
	}
	slices.Sort(ns)
	return Answer{MedianNS: float64(ns[len(ns)/2]), P99NS: float64(ns[len(ns)*99/100]), WallNS: wall}, nil
}

// endure has all callers call at once. Before memory is measured first, a twentieth of the calls
// make what is kept from then on: threads, their stacks, the pools of allocators.
func endure(b Bench, o Order) (a Answer, err error) {
	if err := callAll(b, o.Callers, o.Calls/20); err != nil {
		return a, err
	}
	if a.Before, err = resident(); err != nil {
		return a, err
	}
	start := time.Now()
	if err := callAll(b, o.Callers, o.Calls); err != nil {
		return a, err
	}
	a.WallNS = int64(time.Since(start))
	a.After, err = resident()
	return a, err
}

func callAll(b Bench, callers, calls int) error {
	var all sync.WaitGroup
	errs := make([]error, callers)
	for caller := range callers {
		all.Go(func() {
			for range (calls + caller) / callers { // together calls
				if errs[caller] = b.Call(caller); errs[caller] != nil {
					return
				}
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}
