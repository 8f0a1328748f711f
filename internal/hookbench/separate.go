package hookbench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"

	"pyhook/c10d"
	"pyhook/launch"
	"pyhook/pyhook"
)

// separate is the C++ side in a process of its own, one for each rank. In this one it
// gains from what pyhook does to the process: torch's threads keep their Python
// thread state (cbridge/threadstate.c), and C++ waits for them too.
type separate struct {
	cmd    *exec.Cmd
	orders *os.File
	to     *json.Encoder
	from   *json.Decoder
}

// order has the process call the hook of a case, the first time after opening it.
type order struct{ Case, Calls int }

type answer struct {
	NS    []int64
	Error string
}

// Of the separate process: after stdin, stdout and stderr.
const (
	ordersFD  = 3
	answersFD = 4
)

// separate reports whether the case is measured so too. Without a collective nothing
// differs there.
func (c Case) separate() bool { return !c.noop() && c.alone() && !c.GPU }

func startSeparate(j *job, group c10d.ProcessGroup) (*separate, error) {
	child := *j
	child.Separate, child.Rank, child.World = true, group.Rank(), group.Size()
	text, err := json.Marshal(child)
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	orders, to, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer orders.Close()
	from, answers, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, to.Close())
	}
	defer answers.Close()
	cmd := exec.Command(self, j.RankArgs...)
	cmd.Env = append(os.Environ(), jobVariable+"="+string(text))
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	cmd.ExtraFiles = []*os.File{orders, answers}
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(err, to.Close(), from.Close())
	}
	return &separate{cmd: cmd, orders: to, to: json.NewEncoder(to), from: json.NewDecoder(from)}, nil
}

// close ends the process.
func (a *separate) close() error {
	if a == nil {
		return nil
	}
	return errors.Join(a.orders.Close(), a.cmd.Wait())
}

// separateSide is its side of a case.
type separateSide struct {
	*separate
	number int // in the job
}

func (s separateSide) run(ns []int64) error {
	if err := s.to.Encode(order{Case: s.number, Calls: len(ns)}); err != nil {
		return fmt.Errorf("the C++ side's own process: %w", err)
	}
	var got answer
	if err := s.from.Decode(&got); err != nil {
		return fmt.Errorf("the C++ side's own process: %w", err)
	}
	if got.Error != "" {
		return fmt.Errorf("the C++ side's own process: %s", got.Error)
	}
	copy(ns, got.NS)
	return nil
}

// serve is the separate process: it joins a group of its kind and calls the hook as
// it is told, until there are no more orders.
func serve(ctx context.Context, j *job) error {
	if err := launch.DieWithParent(); err != nil {
		return err
	}
	from, to := json.NewDecoder(os.NewFile(ordersFD, "orders")), json.NewEncoder(os.NewFile(answersFD, "answers"))
	rt, err := pyhook.Start(ctx, pyhook.Config{Python: j.Python, Path: j.Path})
	if err != nil {
		return err
	}
	defer rt.Close()
	store, err := rt.NewFileStore(ctx, j.Rows+".store", j.World)
	if err != nil {
		return err
	}
	if _, err := rt.InitProcessGroup(ctx, pyhook.GroupConfig{Backend: "gloo", Store: store, Rank: j.Rank, Size: j.World, Timeout: time.Minute}); err != nil {
		return err
	}
	var b *bench
	defer func() { b.close() }()
	for number := -1; ; {
		var o order
		if err := from.Decode(&o); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		var got answer
		if o.Case != number {
			b.close()
			number = o.Case
			b, err = newBench(ctx, rt, j, j.Cases[number])
		}
		if err == nil {
			got.NS = make([]int64, o.Calls)
			err = b.cpp.run(got.NS)
		}
		if err != nil {
			got.Error = err.Error()
		}
		if err := to.Encode(got); err != nil {
			return err
		}
	}
}
