package network_test

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// rename makes this process's host one that Debian's installer has set up: its own name is
// 127.0.1.1 in /etc/hosts. The other hosts are there by their addresses on the wire.
func rename(p rankConfig) error {
	if p.Name == "" {
		return nil
	}
	hosts, err := os.CreateTemp("", "pyhook-hosts-*")
	if err != nil {
		return err
	}
	defer os.Remove(hosts.Name())
	defer hosts.Close()
	fmt.Fprintf(hosts, "127.0.0.1\tlocalhost\n127.0.1.1\t%s\n", p.Name)
	for machine := range p.Size {
		if machine != p.Machine {
			fmt.Fprintf(hosts, "%s\t%s\n", dotted(machine), hostname(machine))
		}
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making the mounts this process's own: %w", err)
	}
	if err := unix.Mount(hosts.Name(), "/etc/hosts", "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mounting /etc/hosts: %w", err)
	}
	return unix.Sethostname([]byte(p.Name))
}

func hostname(machine int) string { return fmt.Sprintf("machine%d", machine) }

// Two machines as Debian's installer leaves them. MASTER_ADDR is an address of rank 0's, or
// its name, which rank 0 itself knows as loopback.
func TestHostsWhoseOwnNameIsLoopback(t *testing.T) {
	needRoot(t)
	for _, master := range []string{dotted(0), hostname(0)} {
		t.Run(master, func(t *testing.T) {
			t.Parallel()
			w := newWire()
			t.Cleanup(w.close)
			ranks := make([]*rank, 2)
			for i := range ranks {
				ranks[i] = startRank(t, w, rankConfig{Machine: i, Rank: i, Size: 2, Addr: master, Port: 29500, Timeout: timeout,
					Hook: "pending", Name: hostname(i)}, "LOCAL_WORLD_SIZE=1", "WORLD_SIZE=2")
			}
			for _, r := range ranks {
				require.True(t, r.must("ready").OK)
			}
			for _, command := range []string{"join", "step"} {
				for _, r := range ranks {
					r.send(command)
				}
				for _, r := range ranks {
					a, err := r.hear(time.Minute)
					require.NoError(t, err)
					require.True(t, a.OK && a.Sum, "%s: %s", command, a.Err)
				}
			}
			for i, r := range ranks {
				for _, l := range listening(t, r) {
					if i != 0 || l.Port() != 29500 {
						assert.Equal(t, dotted(i), l.Addr().String(), "gloo's")
					}
				}
			}
		})
	}
}

// What the user chose is not changed; that it cannot work is said before anybody waits.
func TestAnInterfaceThatOthersCannotReachIsNamed(t *testing.T) {
	t.Parallel()
	needRoot(t)
	w := newWire()
	t.Cleanup(w.close)
	ranks := make([]*rank, 2)
	for i := range ranks {
		env := []string{"LOCAL_WORLD_SIZE=1", "WORLD_SIZE=2"}
		at := rankConfig{Machine: i, Rank: i, Size: 2, Addr: dotted(0), Port: 29500, Timeout: time.Minute, Hook: "pending"}
		ranks[i] = startRank(t, w, at, env...)
	}
	for i, r := range ranks {
		a := r.must("interface " + []string{device, "lo"}[i])
		require.True(t, a.OK, a.Err)
	}
	for _, r := range ranks {
		r.send("join")
	}
	for _, r := range ranks {
		refused(t, r, "ErrAddress", "rank 1 ")
	}
}
