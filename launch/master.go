package launch

import (
	"fmt"
	"net"
	"strings"
)

const (
	loopback = "127.0.0.1"
	// defaultMasterPort is torchrun's --master-port default.
	defaultMasterPort = 29500
)

// explicitMaster takes the meeting place that the user gave: a flag, or
// MASTER_ADDR and MASTER_PORT. A single process does not look at MASTER_*: left
// over from another job they would make it wait for a rank 0 elsewhere.
func (r *reader) explicitMaster(w *World, source Source) {
	addr, port := []string{flagMasterAddr}, []string{flagMasterPort}
	if source == SourcePET {
		addr, port = append(addr, "PET_MASTER_ADDR"), append(port, "PET_MASTER_PORT")
	}
	if source != SourceSingle {
		addr, port = append(addr, "MASTER_ADDR"), append(port, "MASTER_PORT")
	}
	r.vars.masterAddr, w.MasterAddr = r.first(addr...)
	w.MasterAddr = unbracketed(w.MasterAddr)
	r.vars.masterPort, _ = r.first(port...)
	if r.vars.masterPort == "" {
		return
	}
	w.MasterPort = r.optional(r.vars.masterPort, 0)
	if r.err == nil && (w.MasterPort < 1 || w.MasterPort > 65535) {
		r.fail(r.vars.masterPort, fmt.Sprint(w.MasterPort), "is not a port (1..65535)",
			"every rank must be given the same free port")
	}
}

// unbracketed takes the brackets off an IPv6 address, as it stands in a URL: no resolver
// knows an address with them.
func unbracketed(addr string) string {
	if inner, ok := strings.CutPrefix(addr, "["); ok && strings.HasSuffix(inner, "]") {
		return strings.TrimSuffix(inner, "]")
	}
	return addr
}

// masterLoopback completes a world of one rank: nobody else needs to know the
// place.
func masterLoopback(r *reader, w *World) {
	if w.MasterAddr == "" {
		w.MasterAddr = loopback
	}
	if w.MasterPort == 0 {
		port, err := freePort()
		if err != nil {
			r.fail("MASTER_PORT", "", "is not set and no free port was found: "+err.Error(), "set --master-port")
		}
		w.MasterPort = port
	}
}

// masterRequired is for RANK/WORLD_SIZE, where env:// itself demands both.
func masterRequired(r *reader, w *World) {
	if w.WorldSize == 1 {
		masterLoopback(r, w)
		return
	}
	if w.MasterAddr == "" {
		r.fail("MASTER_ADDR", "", "is not set although RANK is",
			"set it to the host name or IP address of rank 0's machine, the same on every rank, or start with torchrun")
	}
	if w.MasterPort == 0 {
		r.fail("MASTER_PORT", "", "is not set although RANK is",
			"set it to a free port of rank 0's machine, the same on every rank, or start with torchrun")
	}
}

func masterOfFlags(r *reader, w *World) {
	masterElsewhere(r, w, flagMasterAddr, "give --master-addr or MASTER_ADDR: the machine of rank 0, the same on every rank")
}

func masterOfMPI(r *reader, w *World) {
	masterElsewhere(r, w, "MASTER_ADDR",
		"mpirun does not say where rank 0 runs: pass MASTER_ADDR and MASTER_PORT to every rank, as in mpirun -x MASTER_ADDR=host or -genv MASTER_ADDR host")
}

// masterElsewhere is for launchers that never say the place. All ranks on one
// machine can do without; the port must be the same for all, so it is
// torchrun's default and not a free one.
func masterElsewhere(r *reader, w *World, name, hint string) {
	switch {
	case w.WorldSize == 1:
		masterLoopback(r, w)
		return
	case w.MasterAddr != "":
	case w.LocalWorldSize == w.WorldSize:
		w.MasterAddr = loopback
	default:
		r.fail(name, "", fmt.Sprintf("is not set although %s is %d", r.vars.worldSize, w.WorldSize), hint)
	}
	if w.MasterPort == 0 {
		w.MasterPort = defaultMasterPort
	}
}

// freePort asks the kernel for a port. It listens on all addresses, as
// TCPStore's daemon does: a port that is free on the loopback alone would not do.
func freePort() (int, error) {
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}
