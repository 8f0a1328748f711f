package commit

import (
	"net"
	"os"
	"strconv"
	"strings"
)

// hostID is the same for processes that share a network, loopback included: the host's name, and,
// where the system says so, the machine's boot and its network namespace.
func hostID() string {
	name, _ := os.Hostname()
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err == nil {
		var namespace string
		if namespace, err = os.Readlink("/proc/self/ns/net"); err == nil {
			return name + " " + strings.TrimSpace(string(boot)) + " " + namespace
		}
	}
	return name
}

// interfaceVariables name the network interface that the backends use.
var interfaceVariables = []string{"GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"}

// reachable returns the addresses at which other ranks may reach a listener: those of the interface
// that the backend is told to use, or of all that are up.
func reachable(listener net.Addr, loopback bool) ([]string, error) {
	port := strconv.Itoa(listener.(*net.TCPAddr).Port)
	if loopback {
		return []string{net.JoinHostPort("127.0.0.1", port)}, nil
	}
	var list []string
	add := func(addrs []net.Addr) {
		for _, a := range addrs {
			if ip, ok := a.(*net.IPNet); ok && ip.IP.IsGlobalUnicast() {
				list = append(list, net.JoinHostPort(ip.IP.String(), port))
			}
		}
	}
	for _, name := range interfaceVariables {
		if chosen, err := net.InterfaceByName(os.Getenv(name)); err == nil {
			addrs, err := chosen.Addrs()
			if err != nil {
				return nil, err
			}
			add(addrs)
		}
	}
	if list == nil {
		addrs, err := net.InterfaceAddrs()
		if err != nil {
			return nil, err
		}
		add(addrs)
	}
	return list, nil
}
