package worker

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"pyhook/internal/lines"
	"pyhook/worker/internal/ipc"
)

// process is one worker process from its start to its end, as the trainer sees it.
type process struct {
	cfg     *Config
	wire    *ipc.Conn[message]
	page    *ipc.Region // of vitals
	vitals  *vitals
	stacks  *os.File // what faulthandler writes; the worker has it too
	cmd     *exec.Cmd
	tail    *lines.Tail
	started *startedMessage
	trace   func(*traceMessage) // is called for each collective that the process reports
	info    atomic.Int64        // the thread to signal for the stacks; 0: Python does not run

	mu     sync.Mutex
	calls  map[uint64]*call
	next   uint64
	mapped map[uint64]bool // regions that it has
	why    *Error          // what was found wrong first; nil: nothing
	gone   bool            // dead is closed

	endOnce sync.Once
	failure *Error        // set before dead is closed
	dead    chan struct{} // the process is reaped, and nothing of it is left
	read    chan struct{} // its messages are all handled
}

// startProcess starts a worker process, which waits for kindStart.
func startProcess(cfg *Config, trace func(*traceMessage)) (_ *process, err error) {
	p := &process{cfg: cfg, trace: trace, calls: map[uint64]*call{}, mapped: map[uint64]bool{}, dead: make(chan struct{}), read: make(chan struct{}), tail: &lines.Tail{Size: tailBytes}}
	defer func() {
		if err != nil {
			p.release()
		}
	}()
	if p.page, err = ipc.NewRegion(0, vitalsBytes); err != nil {
		return nil, err
	}
	p.vitals = vitalsIn(p.page)
	fd, err := unix.MemfdCreate("pyhook stacks", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	p.stacks = os.NewFile(uintptr(fd), "stacks")
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	theirs := os.NewFile(uintptr(pair[1]), "worker's socket")
	defer theirs.Close()
	if p.wire, err = ipc.NewConn[message](os.NewFile(uintptr(pair[0]), "trainer's socket")); err != nil {
		return nil, err
	}
	p.command(theirs)
	if err := p.launch(); err != nil {
		return nil, err
	}
	return p, nil
}

func (p *process) command(socket *os.File) {
	// Not by its path, where another program may be by now.
	p.cmd = exec.Command("/proc/self/exe")
	p.cmd.Args = []string{p.cfg.title} // what ps shows
	p.cmd.Env = append(os.Environ(), "PYTHONUNBUFFERED=1")
	if p.cfg.Size > 0 {
		p.cmd.Env = append(p.cmd.Env, "RANK="+strconv.Itoa(p.cfg.Rank), "WORLD_SIZE="+strconv.Itoa(p.cfg.Size))
	}
	p.cmd.Env = append(append(p.cmd.Env, p.cfg.Env...), variable+"=1")
	p.cmd.ExtraFiles = []*os.File{socket, p.page.File, p.stacks}
	prefix := ""
	if p.cfg.rank >= 0 {
		prefix = fmt.Sprintf("[worker %d] ", p.cfg.rank)
	}
	output := func() io.Writer {
		return &lines.Writer{Lock: p.cfg.outputLock, Dst: p.cfg.Output, Prefix: prefix, Tail: p.tail}
	}
	p.cmd.Stdout, p.cmd.Stderr = output(), output()
}

// launch starts the process, and the goroutines that read its messages and supervise it.
func (p *process) launch() error {
	if err := ipc.StartChild(p.cmd, p.ended); err != nil {
		return err
	}
	go p.receive()
	go p.supervise()
	return nil
}

// ended ends all that waits for the process.
func (p *process) ended() {
	for _, w := range []io.Writer{p.cmd.Stdout, p.cmd.Stderr} {
		w.(*lines.Writer).Flush()
	}
	// What it sent before its end still counts.
	select {
	case <-p.read:
	case <-time.After(time.Second):
		p.wire.Close()
		<-p.read
	}
	p.fail()
}

// fail, after the end of the process, ends all calls with its error.
func (p *process) fail() {
	p.mu.Lock()
	e := p.why
	if e == nil {
		e = &Error{Code: ErrExited}
	}
	state := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	e.ExitCode = p.cmd.ProcessState.ExitCode()
	if state.Signaled() {
		e.Signal = state.Signal()
	}
	switch {
	case p.why != nil:
	case state.Signaled():
		e.Code, e.Detail = ErrCrashed, signalText(e.Signal)
	default:
		e.Detail = fmt.Sprintf("with code %d", e.ExitCode)
	}
	e.Rank, e.Bucket = p.cfg.rank, -1
	e.Stack, e.Stderr = p.stackText(), p.tail.Text()
	p.failure, p.gone = e, true
	calls := p.calls
	p.calls = nil
	p.mu.Unlock()
	p.release()
	close(p.dead)
	for _, c := range calls {
		c.finish(answer{outcome: outcomeFailed, err: e.at(c.hook, c.bucket)})
	}
}

func (p *process) release() {
	if p.wire != nil {
		p.wire.Close()
	}
	p.page.Close()
	if p.stacks != nil {
		p.stacks.Close()
	}
}

// kill ends the process for a reason, of which the first counts, and returns when it
// is gone. dump: ask for the stacks before.
func (p *process) kill(why *Error, dump bool) {
	p.endOnce.Do(func() {
		if dump {
			p.dumpStacks()
		}
		p.mu.Lock()
		p.why = why
		p.mu.Unlock()
		_ = p.cmd.Process.Kill()
	})
	<-p.dead
}

// stop asks the process to destroy its groups and to end Python, and kills it if that takes too
// long.
func (p *process) stop() {
	p.mu.Lock()
	if p.why == nil {
		p.why = &Error{Code: ErrStopped}
	}
	p.mu.Unlock()
	_ = p.wire.Send(&message{Kind: kindStop}, nil)
	for _, patience := range []time.Duration{stopPatience, exitPatience} {
		select {
		case <-p.dead:
			return
		case <-time.After(patience):
		}
		if !p.isEnding() {
			break
		}
	}
	p.kill(&Error{Code: ErrStopped}, false)
}

// isEnding reports whether the worker is ending Python, and waits for its threads for example.
func (p *process) isEnding() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.gone && p.vitals.ending.Load()
}

// dumpStacks has faulthandler write the stacks of all threads, from the handler of a signal, which
// needs no global lock of Python's.
func (p *process) dumpStacks() {
	thread := int(p.info.Load())
	if thread == 0 || ipc.IsStopped(p.cmd.Process.Pid) {
		return
	}
	size := func() int64 {
		info, err := p.stacks.Stat()
		if err != nil {
			return 0
		}
		return info.Size()
	}
	before := size()
	if unix.Tgkill(p.cmd.Process.Pid, thread, syscall.Signal(stackSignal)) != nil {
		return
	}
	last, calm := before, 0
	for end := time.Now().Add(stackPatience); time.Now().Before(end) && calm < 3; {
		time.Sleep(5 * time.Millisecond)
		now := size()
		if now > before && now == last {
			calm++
		}
		last = now
	}
}

func (p *process) stackText() string {
	info, err := p.stacks.Stat()
	if err != nil {
		return ""
	}
	text := make([]byte, min(info.Size(), 64<<10))
	n, _ := p.stacks.ReadAt(text, 0)
	return lines.RunningThreads(string(text[:n]))
}

const (
	tailBytes     = 8 << 10
	stopPatience  = 3 * time.Second
	exitPatience  = 33 * time.Second // pyhook.Config.ExitWait and a little more
	stackPatience = 500 * time.Millisecond
)
