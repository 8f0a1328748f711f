package launch

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"pyhook/internal/lines"
)

// rankProcess is one rank from its start to its end.
type rankProcess struct {
	rank      int
	cmd       *exec.Cmd
	errorFile string
	stdout    *lines.Writer
	stderr    *lines.Writer
	tail      *lines.Tail

	// lock prevents a signal to a process group whose id the kernel may have reused.
	lock  sync.Mutex
	alive bool

	err   error     // of the wait
	ended time.Time // when the end was seen
}

func newRankProcess(cfg SpawnConfig, rank int, dir string, lock *sync.Mutex) *rankProcess {
	p := &rankProcess{
		rank:      rank,
		errorFile: filepath.Join(dir, strconv.Itoa(rank), "error.json"),
		tail:      &lines.Tail{Size: cfg.TailBytes},
	}
	prefix := ""
	if cfg.Show == ShowPrefixed {
		prefix = fmt.Sprintf("[rank %d] ", rank)
	}
	newWriter := func(dst io.Writer) *lines.Writer {
		return &lines.Writer{Lock: lock, Dst: dst, Prefix: prefix, Tail: p.tail}
	}
	p.stdout, p.stderr = newWriter(cfg.Stdout), newWriter(cfg.Stderr)
	p.cmd = exec.Command(cfg.Command[0], cfg.Command[1:]...)
	p.cmd.Dir = cfg.Dir
	p.cmd.Env = cfg.environ(rank, p.errorFile)
	p.cmd.Stdout, p.cmd.Stderr = p.stdout, p.stderr
	p.cmd.SysProcAttr = rankAttributes()
	// Only a process that left the rank's group can still hold the pipes then.
	p.cmd.WaitDelay = 5 * time.Second
	return p
}

func (p *rankProcess) start() error {
	if err := os.MkdirAll(filepath.Dir(p.errorFile), 0o755); err != nil {
		return err
	}
	if err := p.cmd.Start(); err != nil {
		return err
	}
	p.lock.Lock()
	defer p.lock.Unlock()
	p.alive = true
	return nil
}

// wait returns when the rank has ended, its group is gone and its output is
// passed on.
func (p *rankProcess) wait() {
	p.err = reap(p.cmd, func() {
		p.lock.Lock()
		defer p.lock.Unlock()
		p.ended = time.Now()
		_ = signalGroup(p.cmd.Process.Pid, syscall.SIGKILL)
		p.alive = false
	})
	p.lock.Lock()
	p.alive = false
	p.lock.Unlock()
	if p.ended.IsZero() {
		p.ended = time.Now()
	}
	p.stdout.Flush()
	p.stderr.Flush()
}

// signal returns no error: a group that cannot be signalled has ended, or
// changed its user, and SIGKILL follows in any case.
func (p *rankProcess) signal(sig syscall.Signal) {
	p.lock.Lock()
	defer p.lock.Unlock()
	if p.alive {
		_ = signalGroup(p.cmd.Process.Pid, sig)
	}
}

// failed reads the exit status. The error of Cmd.Wait would not do: a process that left
// the group and keeps the pipes open causes one too.
func (p *rankProcess) failed() bool {
	return p.cmd.ProcessState == nil || !p.cmd.ProcessState.Success()
}

// rootCause picks the earliest failure as torchelastic does: by the time in the
// error file or, without a file, by when the end was seen. Both are whole
// seconds, as in the file; among equals the first to end wins.
func rootCause(failed []*rankProcess) *RankError {
	slices.SortStableFunc(failed, func(a, b *rankProcess) int { return a.ended.Compare(b.ended) })
	var cause *RankError
	var earliest int64
	for _, p := range failed {
		e, at := p.rankError()
		if cause == nil || at < earliest {
			cause, earliest = e, at
		}
	}
	return cause
}

func (p *rankProcess) rankError() (e *RankError, at int64) {
	e = &RankError{Rank: p.rank, ExitCode: -1, Tail: p.tail.Text()}
	at = p.ended.Unix()
	if state := p.cmd.ProcessState; state != nil {
		e.ExitCode = state.ExitCode()
		e.Signal = endedBy(state.Sys())
	}
	if report, written, ok := readErrorFile(p.errorFile); ok {
		e.Message = report.Message.Message
		e.Traceback = report.Message.ExtraInfo.Callstack
		at = written
	}
	return e, at
}
