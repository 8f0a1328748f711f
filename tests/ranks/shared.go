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
	"sync"
	"syscall"
	"testing"
	"time"

	"pyhook/internal/freeport"
	"pyhook/launch"
)

// Shared is RunOptions in processes that all calls with as many ranks and the same Env share, one after
// another, since starting torch takes longer than most cases. Calls of parallel tests wait for their
// turn. The case must join a group by Rank.Meet, leave it, and find the Python that runs already, or
// keep its group for the next case. After one that fails, or that calls Rank.Retire, the next call
// starts other processes.
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

// sharedJobs are the jobs by their Options' ranks and environment.
var sharedJobs sync.Map

// sharedJob is a job whose processes are started for the first case, and again after one that retires
// them. With the lock held a case has them for itself.
type sharedJob struct {
	sync.Mutex
	dir    string
	runs   []*json.Encoder // by rank: what it is told
	job    *launch.Job     // nil: none is running
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
	found, _ := sharedJobs.LoadOrStore(fmt.Sprint(o.N, o.Env), &sharedJob{})
	s := found.(*sharedJob)
	s.Lock()
	defer s.Unlock()
	if s.job == nil {
		if err := s.begin(o); err != nil {
			return err
		}
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
	retired := false
	for rank := 0; rank < o.N; {
		if how, err := os.ReadFile(doneFile(dir, rank)); err == nil {
			retired = retired || string(how) == retires
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
	if retired {
		s.close()
	}
	return nil
}

// begin starts the processes.
func (s *sharedJob) begin(o Options) (err error) {
	if s.dir, err = os.MkdirTemp("", "pyhook-ranks-"); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.stop, s.ended, s.runs = cancel, make(chan struct{}), nil
	s.output.Reset()
	if err := s.start(ctx, o); err != nil {
		cancel()
		return errors.Join(err, os.RemoveAll(s.dir))
	}
	go func() {
		defer close(s.ended)
		err := s.job.Wait()
		if err == nil {
			err = errors.New("the ranks ended before they were told to")
		}
		s.err = withOutput(err, "shared", s.output.Bytes())
	}()
	return nil
}

// start makes the pipes, which ctx closes, and starts the processes.
func (s *sharedJob) start(ctx context.Context, o Options) (err error) {
	for rank := range o.N {
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
	s.job, err = (Options{N: o.N, Case: sharedCase, Env: o.Env}).spawn(ctx, s.dir, &s.output)
	return err
}

// close ends the processes.
func (s *sharedJob) close() {
	s.stop()
	<-s.ended
	os.RemoveAll(s.dir)
	s.job = nil
}

func endShared() {
	sharedJobs.Range(func(_, found any) bool {
		if s := found.(*sharedJob); s.job != nil {
			s.close()
		}
		return true
	})
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
		if err := own.done(); err != nil {
			return err
		}
	}
}

// retires is in the done file of a rank that has called Retire.
const retires = "retires"

// Retire says that this process is not fit for another case of Shared, though this one ends well: what
// failed in it is in its report.
func (r *Rank) Retire() { r.retired = true }

// done says that the case has ended well.
func (r *Rank) done() error {
	how := ""
	if r.retired {
		how = retires
	}
	name := doneFile(r.Dir, r.Rank)
	if err := os.WriteFile(name+".new", []byte(how), 0o600); err != nil {
		return err
	}
	return os.Rename(name+".new", name)
}
