package launch

import (
	"fmt"
	"strings"

	"pyhook/internal/freeport"
)

const (
	loopback = "127.0.0.1"
	// defaultMasterPort is torchrun's --master-port default.
	defaultMasterPort = 29500
)

// explicitMaster reads the address of rank 0 that the user or the launcher gave: by
// the family's own variables, or by MASTER_ADDR and MASTER_PORT.
func (r *reader) explicitMaster(w *World, f family) {
	addr, port := []string{f.masterAddr}, []string{f.masterPort}
	if !f.ignoresMaster {
		addr, port = append(addr, "MASTER_ADDR"), append(port, "MASTER_PORT")
	}
	r.names.masterAddr, w.MasterAddr = r.first(addr...)
	w.MasterAddr = unbracketed(w.MasterAddr)
	r.names.masterPort, _ = r.first(port...)
	if r.names.masterPort == "" {
		return
	}
	w.MasterPort = r.optional(r.names.masterPort, 0)
	if r.err == nil && (w.MasterPort < 1 || w.MasterPort > 65535) {
		r.fail(r.names.masterPort, fmt.Sprint(w.MasterPort), "is not a port (1..65535)",
			"every rank must be given the same free port")
	}
}

// unbracketed removes the brackets of an IPv6 address, which URLs have and resolvers refuse.
func unbracketed(addr string) string {
	if inner, ok := strings.CutPrefix(addr, "["); ok && strings.HasSuffix(inner, "]") {
		return strings.TrimSuffix(inner, "]")
	}
	return addr
}

// masterLoopback completes a world of one rank: nobody else needs to know the
// address.
func masterLoopback(r *reader, w *World) {
	if w.MasterAddr == "" {
		w.MasterAddr = loopback
	}
	if w.MasterPort == 0 {
		port, err := freeport.Find()
		if err != nil {
			r.fail("MASTER_PORT", "", "is not set and no free port was found: "+err.Error(), "set MASTER_PORT")
		}
		w.MasterPort = port
	}
}

// masterElsewhere is for launchers that never set the address of rank 0. Ranks of one
// machine use loopback. The port must be the same for all, so it is torchrun's default and
// not a free one.
func masterElsewhere(r *reader, w *World, name, hint string) {
	switch {
	case w.Size == 1:
		masterLoopback(r, w)
		return
	case w.MasterAddr != "":
	case w.LocalSize == w.Size:
		w.MasterAddr = loopback
	default:
		r.fail(name, "", fmt.Sprintf("is not set although %s is %d", r.names.worldSize, w.Size), hint)
	}
	if w.MasterPort == 0 {
		w.MasterPort = defaultMasterPort
	}
}
