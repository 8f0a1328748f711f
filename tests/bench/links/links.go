package main

import (
	"context"
	"fmt"
	"os/exec"
	"strings"

	"pyhook/internal/compare"
)

// links is a machine for each rank, a network namespace, each with one shaped link to a switch, which
// has a namespace of its own: so no firewall of the host is in between.
type links struct {
	names []string // of the namespaces, the switch's last
}

// burst is how much a link may send at once: what the kernel's timers may be late.
const burstSeconds, leastBurst = 0.004, 64 << 10

// newLinks makes them. What it returns has to be closed, also with an error.
func newLinks(ctx context.Context, network compare.Network, ranks int) (*links, error) {
	l := &links{}
	for rank := range ranks {
		l.names = append(l.names, fmt.Sprintf("pyhook-link%d", rank))
	}
	l.names = append(l.names, "pyhook-switch")
	l.close() // of a run that was killed
	sw := l.names[ranks]
	var script []string
	add := func(format string, args ...any) { script = append(script, fmt.Sprintf(format, args...)) }
	for _, name := range l.names {
		add("ip netns add %s", name)
	}
	add("ip -n %s link add bridge0 type bridge", sw)
	add("ip -n %s link set bridge0 up", sw)
	shape := fmt.Sprintf("root tbf rate %.0fbit burst %.0fb latency 50ms overhead 24", network.BitsPerSecond, max(leastBurst, network.BitsPerSecond/8*burstSeconds))
	for rank, name := range l.names[:ranks] {
		add("ip link add port%d netns %s type veth peer name eth0 netns %s", rank, sw, name)
		add("ip -n %s link set port%d master bridge0 up", sw, rank)
		add("ip -n %s addr add %s/24 dev eth0", name, address(rank))
		add("ip -n %s link set eth0 up", name)
		add("ip -n %s link set lo up", name)
		add("ip netns exec %s tc qdisc add dev eth0 %s", name, shape)
		add("ip netns exec %s tc qdisc add dev port%d %s", sw, rank, shape)
	}
	for _, line := range script {
		words := strings.Fields(line)
		if out, err := exec.CommandContext(ctx, words[0], words[1:]...).CombinedOutput(); err != nil {
			return l, fmt.Errorf("%s: %w: %s", line, err, strings.TrimSpace(string(out)))
		}
	}
	return l, nil
}

func address(rank int) string { return fmt.Sprintf("10.77.0.%d", rank+1) }

// on is what a rank's command line begins with.
func (l *links) on(rank int) []string {
	return []string{"ip", "netns", "exec", l.names[rank], "env", fmt.Sprintf("RANK=%d", rank), fmt.Sprintf("WORLD_SIZE=%d", len(l.names)-1),
		"MASTER_ADDR=" + address(0), "MASTER_PORT=29511", "GLOO_SOCKET_IFNAME=eth0", "OMP_NUM_THREADS=1", "TORCH_CPP_LOG_LEVEL=ERROR"}
}

// close removes them with all that is in them.
func (l *links) close() {
	for _, name := range l.names {
		_ = exec.Command("ip", "netns", "del", name).Run() // it may not be there
	}
}
