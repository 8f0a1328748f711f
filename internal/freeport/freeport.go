// Package freeport finds a TCP port for the rank 0 of a job that is about to start.
package freeport

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
)

const first, last = 10000, 65535

// Find returns a port that no process listens at, on any address of this host. Seconds pass
// between this and the bind of rank 0, which imports torch before, and whoever opens a connection
// meanwhile gets a port from the kernel. So this is none of those that the kernel gives, unless it
// gives nearly all.
func Find() (int, error) {
	low, high := given()
	for range 100 {
		port := first + rand.IntN(last-first+1)
		if low <= port && port <= high {
			continue
		}
		if _, err := listen(port); err == nil {
			return port, nil
		}
	}
	return listen(0)
}

// given reads which ports the kernel gives to connections. Where it does not say, all from
// Linux's first on.
func given() (low, high int) {
	data, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err == nil {
		if _, err = fmt.Sscan(string(data), &low, &high); err == nil {
			return low, high
		}
	}
	return 32768, last
}

// listen binds all addresses, as TCPStore's daemon does: a port that is free on loopback alone
// would not do.
func listen(port int) (int, error) {
	l, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}
