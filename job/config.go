package job

import (
	"errors"
	"time"

	"pyhook/pyhook"
	"pyhook/worker"
)

// Config says how a process joins. The zero value is the rank that the launcher started, or alone,
// on a gloo group, with the first Python that has torch.
type Config struct {
	// Ranks is how many ranks of this program Main starts on this machine where no launcher started
	// it: what a flag -n gives. 0 and 1: none, the process is the job. Under a launcher it does not
	// count.
	Ranks int
	// Python chooses the interpreter.
	Python pyhook.Config
	// Backend of the process group. Empty: gloo, torch's for the CPU, where ddp has its gradients.
	Backend string
	// Timeout of each collective, and of the wait for the other ranks at the end; 0: PyTorch's 30
	// minutes. JoinTimeout is how long the ranks wait for each other to come; 0: Timeout, and 5 minutes
	// where that is 0 too.
	Timeout, JoinTimeout time.Duration
	// Worker, if given, has the hooks and the group in a process of their own, which the job starts
	// (package worker). The fields above but Ranks are then left out: Worker has its own.
	Worker *worker.Config
}

func (c Config) check() error {
	switch {
	case c.Ranks < 0:
		return errors.New("job: Config.Ranks is negative: it is how many ranks to start on this machine")
	case c.Worker == nil:
		return nil
	case c.Python.Python != "", c.Python.Library != "", len(c.Python.Path) > 0, c.Python.Output != pyhook.Output{}, c.Python.ExitWait != 0,
		c.Backend != "", c.Timeout != 0, c.JoinTimeout != 0:
		return errors.New("job: with Config.Worker, Python, Backend, Timeout and JoinTimeout are left out: set Worker's own fields")
	}
	return nil
}
