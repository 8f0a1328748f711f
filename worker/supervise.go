package worker

import (
	"fmt"
	"time"

	"pyhook/worker/internal/ipc"
)

const (
	beatEvery      = 20 * time.Millisecond
	superviseEvery = 20 * time.Millisecond
)

// supervise kills the process when its memory passes the limit, its heartbeat stops, or a call
// takes too long.
func (p *process) supervise() {
	ticker := time.NewTicker(superviseEvery)
	defer ticker.Stop()
	beat, seen := p.vitals.heartbeat.Load(), time.Now()
	for {
		select {
		case <-p.dead:
			return
		case <-ticker.C:
		}
		if p.isGone() {
			return // vitals may be unmapped
		}
		if now := p.beats(); now != beat {
			beat, seen = now, time.Now()
		}
		if since := time.Since(seen); beat > 0 && since > p.cfg.FrozenAfter {
			detail := fmt.Sprintf("no sign of life for %s", since.Round(time.Millisecond))
			if ipc.IsStopped(p.cmd.Process.Pid) {
				detail += ": a signal stopped it"
			}
			p.kill(&Error{Code: ErrFrozen, Detail: detail}, true)
			return
		}
		if limit := p.cfg.MemoryLimit; limit > 0 {
			if used := ipc.OwnMemory(p.cmd.Process.Pid); used > limit {
				p.kill(&Error{Code: ErrMemory, Detail: fmt.Sprintf("%d MiB of its own, the limit is %d", used>>20, limit>>20)}, true)
				return
			}
		}
		if c, since := p.overdue(); c != nil {
			p.kill(&Error{Code: ErrHung, Detail: fmt.Sprintf("%s is not done after %s", c.what(), since.Round(time.Millisecond))}, true)
			return
		}
	}
}

func (p *process) isGone() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.gone
}

// beats reads the heartbeat. The page stays mapped while mu is held and gone is not
// set.
func (p *process) beats() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gone {
		return 0
	}
	return p.vitals.heartbeat.Load()
}

// overdue returns a call that takes too long.
func (p *process) overdue() (*call, time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.calls {
		if since := time.Since(c.start); since > c.limit {
			return c, since
		}
	}
	return nil, 0
}
