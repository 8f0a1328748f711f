package doctor

import (
	"context"
	"fmt"
	"net"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"pyhook/launch"
)

// checkTorch looks for the traps of this torch.
func (r *doctorReport) checkTorch() {
	t := r.Torch
	r.add("start", statusOK, "", "Python and torch start inside pyhook")
	if r.Python.FreeThreaded {
		r.add("free_threaded", statusWarning, "a usual build of Python is the tested one", "this Python is free-threaded")
	}
	if !t.Distributed {
		r.add("distributed", statusProblem, "install a build of torch that has it: pip install torch", "torch was built without torch.distributed")
		return
	}
	if t.Numpy == nil {
		r.add("numpy", statusWarning, r.Python.Executable+" -m pip install numpy", "numpy is not there: PowerSGD hooks need it")
	} else {
		r.add("numpy", statusOK, "", "numpy is there, which PowerSGD hooks need")
	}
	switch {
	case t.TorchrunLacksLibuv:
		r.add("torchrun", statusWarning, "start ranks with pyhook train -n N, srun, mpirun or RANK and its like; or take pip's torch",
			"torchrun cannot start ranks: it asks for libuv, which this build of torch %s lacks", t.Version)
	case t.TorchrunBroken:
		r.add("torchrun", statusWarning, "torchrun -r 1 -t 1 --no_python ... works; so does pyhook train -n N",
			"torchrun fails at once: torch %s does not know Python %s's flags", t.Version, r.Python.Version)
	default:
		r.add("torchrun", statusOK, "", "torchrun can start ranks: torchrun --no_python --nproc_per_node N pyhook ...")
	}
	// torch 2.4 is the first to ask for libuv by itself.
	if !t.LibuvWorks && !t.TorchrunLacksLibuv && torchAtLeast(t.Version, 2, 4) && os.Getenv("USE_LIBUV") != "0" {
		r.add("libuv", statusWarning, "export USE_LIBUV=0 where you start torchrun; pyhook sets it by itself",
			"torch's store was built without libuv, and torchrun asks for it")
	}
}

// torchAtLeast reads "2.4.1+cpu", "2.4a0".
func torchAtLeast(version string, major, minor int) bool {
	var a, b int
	_, err := fmt.Sscanf(version, "%d.%d", &a, &b)
	return err == nil && (a > major || a == major && b >= minor)
}

// checkMachine looks for the traps outside Python.
func (r *doctorReport) checkMachine() {
	r.checkHostname()
	r.checkThreads(os.Getenv("OMP_NUM_THREADS"), runtime.GOMAXPROCS(0))
	if world, err := launch.Detect(launch.Options{}); err != nil {
		r.add("launcher", statusProblem, "unset the variable, or start pyhook by the launcher that sets all of them", "%s", err)
	} else if world.Source != launch.SourceSingle {
		r.add("launcher", statusOK, "", "%s", world)
	}
}

// checkHostname: gloo binds to the address of the host's own name
// (torch/csrc/distributed/c10d/ProcessGroupGloo.cpp, createDefaultDevice).
func (r *doctorReport) checkHostname() {
	if name := os.Getenv("GLOO_SOCKET_IFNAME"); name != "" {
		r.add("hostname", statusOK, "", "gloo uses the interface %s (GLOO_SOCKET_IFNAME)", name)
		return
	}
	name, err := os.Hostname()
	var found []string
	if err == nil {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		found, err = net.DefaultResolver.LookupHost(ctx, name)
	}
	r.judgeHostname(name, found, err)
}

// judgeHostname judges what the host's own name resolves to.
func (r *doctorReport) judgeHostname(name string, found []string, err error) {
	const hint = "on several machines pyhook's ranks take the interface on the way to MASTER_ADDR; for ranks in plain Python, " +
		"export GLOO_SOCKET_IFNAME=eth0 (the interface between the machines)"
	elsewhere := func(address string) bool {
		ip := net.ParseIP(address)
		return ip != nil && !ip.IsLoopback()
	}
	switch {
	case err != nil:
		r.add("hostname", statusWarning, hint,
			"the hostname %s cannot be resolved: gloo by itself falls back to loopback, which serves one machine only", name)
	case !slices.ContainsFunc(found, elsewhere):
		r.add("hostname", statusWarning, hint+", or give the name an address of this machine in /etc/hosts",
			"the hostname %s is %s here: gloo by itself listens there, which serves one machine only", name, strings.Join(found, ", "))
	default:
		r.add("hostname", statusOK, "", "the hostname %s can be resolved, as gloo needs it", name)
	}
}

func (r *doctorReport) checkThreads(setting string, cpus int) {
	n, err := strconv.Atoi(setting)
	switch {
	case setting == "":
		r.add("threads", statusOK, "", "OMP_NUM_THREADS is not set: pyhook divides %d CPUs among the ranks that it starts", cpus)
	case err != nil || n < 1:
		r.add("threads", statusWarning, "unset OMP_NUM_THREADS, or give a number", "OMP_NUM_THREADS=%s is not a number of threads", setting)
	case n > cpus:
		r.add("threads", statusWarning, "unset OMP_NUM_THREADS: pyhook divides the CPUs among the ranks that it starts",
			"OMP_NUM_THREADS=%d is more than the %d CPUs, and each rank starts as many threads", n, cpus)
	default:
		r.add("threads", statusOK, "", "OMP_NUM_THREADS=%d for each rank, of %d CPUs", n, cpus)
	}
}
