package ranks

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"pyhook/internal/freeport"
	"pyhook/launch"
)

// Shared is RunOptions in processes that all calls with as many ranks share, one after another, since
// starting torch takes longer than most cases. The case must join a group by Rank.Meet, leave it, and
// find the Python that runs already. After one that fails, the next call starts other processes. Not
// for Options.Env, and not for parallel tests.
func Shared(t testing.TB, options Options) *Job {
	t.Helper()
	dir, err := options.prepare(t)
	if err == nil {
		err = options.runShared(dir)
	}
	if err != nil {
		t.Fatalf("case %q: %v", options.Case, err)
	}
	return &Job{Dir: dir, name: options.Case}
}

// sharedCase is the case of processes that are told their cases later.
const sharedCase = "(shared)"

var sharedJobs = map[int]*sharedJob{} // by their number of ranks

type sharedJob struct {
	dir    string
	runs   []*json.Encoder // by rank: what it is told
	job    *launch.Job
	output bytes.Buffer
	ended  chan struct{} // the processes have
	err    error         // read it after ended
	stop   func()
}

// sharedRun is what the ranks are told to do next.
type sharedRun struct {
	Case, Dir, Meet string
	Timeout         time.Duration
}

// runsPipe is the pipe that a rank reads its sharedRuns from.
func runsPipe(dir string, rank int) string { return filepath.Join(dir, "runs.rank"+strconv.Itoa(rank)) }

func doneFile(dir string, rank int) string {
	return filepath.Join(dir, "done.rank"+strconv.Itoa(rank))
}

func (o Options) runShared(dir string) error {
	s, err := sharedJobOf(o.N)
	if err != nil {
		return err
	}
	port, err := freeport.Find()
	if err != nil {
		return err
	}
	for _, runs := range s.runs {
		if err := runs.Encode(sharedRun{o.Case, dir, fmt.Sprint("tcp://127.0.0.1:", port), o.Timeout}); err != nil {
			return err
		}
	}
	for rank := 0; rank < o.N; {
		if _, err := os.Stat(doneFile(dir, rank)); err == nil {
			rank++
			continue
		}
		select {
		case <-s.ended:
			s.close()
			return s.err
		case <-time.After(5 * time.Millisecond):
		}
	}
	return nil
}

func sharedJobOf(n int) (*sharedJob, error) {
	if s := sharedJobs[n]; s != nil {
		return s, nil
	}
	dir, err := os.MkdirTemp("", "pyhook-ranks-")
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &sharedJob{dir: dir, ended: make(chan struct{}), stop: cancel}
	if err := s.start(ctx, n); err != nil {
		cancel()
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	go func() {
		defer close(s.ended)
		err := s.job.Wait()
		if err == nil {
			err = errors.New("the ranks ended before they were told to")
		}
		s.err = withOutput(err, "shared", s.output.Bytes())
	}()
	sharedJobs[n] = s
	return s, nil
}

// start makes the pipes, which ctx closes, and starts the processes.
func (s *sharedJob) start(ctx context.Context, n int) (err error) {
	for rank := range n {
		if err := syscall.Mkfifo(runsPipe(s.dir, rank), 0o600); err != nil {
			return err
		}
		pipe, err := os.OpenFile(runsPipe(s.dir, rank), os.O_RDWR, 0) // which waits for nobody to read
		if err != nil {
			return err
		}
		context.AfterFunc(ctx, func() { pipe.Close() })
		s.runs = append(s.runs, json.NewEncoder(pipe))
	}
	s.job, err = (Options{N: n, Case: sharedCase}).spawn(ctx, s.dir, &s.output)
	return err
}

// close ends the processes.
func (s *sharedJob) close() {
	s.stop()
	<-s.ended
	os.RemoveAll(s.dir)
	for n, other := range sharedJobs {
		if other == s {
			delete(sharedJobs, n)
		}
	}
}

func endShared() {
	for _, s := range sharedJobs {
		s.close()
	}
}

// serveShared runs the cases that it is told, until one fails or ctx ends.
func serveShared(ctx context.Context, r *Rank) error {
	pipe, err := os.Open(runsPipe(r.Dir, r.Rank))
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { pipe.Close() })()
	for runs := json.NewDecoder(pipe); ; {
		var next sharedRun
		if err := runs.Decode(&next); err != nil {
			return err
		}
		own := &Rank{Rank: r.Rank, Size: r.Size, Dir: next.Dir, Meet: next.Meet}
		if err := own.run(ctx, next.Case, next.Timeout); err != nil {
			return fmt.Errorf("case %q: %w", next.Case, err)
		}
		if err := os.WriteFile(doneFile(own.Dir, own.Rank), nil, 0o600); err != nil {
			return err
		}
	}
}
