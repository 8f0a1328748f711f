package cbridge

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// runIDVariable is what torchrun's agent gives each rank that it starts. The rank joins
// the agent's store, so it must have the agent's torch.
const runIDVariable = "TORCHELASTIC_RUN_ID"

// pythonName is a program that may be asked what it is: any other might do anything.
var pythonName = regexp.MustCompile(`^python[0-9.]*[a-z]*$`)

// launcherPython is the interpreter of torchrun's agent, where one started this process,
// perhaps by a script in between. The trainer's own PATH says nothing about it:
// venv/bin/torchrun works without the environment being activated.
func launcherPython() (candidate, bool) {
	run := os.Getenv(runIDVariable)
	if run == "" {
		return candidate{}, false
	}
	// In a container the agent may be process 1.
	for pid, depth := os.Getppid(), 0; pid > 0 && depth < 16; depth++ {
		p, err := readProcess(pid)
		if err != nil {
			return candidate{}, false
		}
		if p.environ[runIDVariable] != run { // what the agent gives it has not itself
			path, ok := p.python()
			return candidate{path, fmt.Sprintf("torchrun's Python, process %d", pid), false}, ok
		}
		pid = p.parent
	}
	return candidate{}, false
}

// process is what Linux tells of another one.
type process struct {
	parent  int
	program string // its file
	args    []string
	folder  string
	environ map[string]string // as it was started
}

// readProcess fails where there is no /proc, or the process is another user's.
func readProcess(pid int) (*process, error) {
	at := func(name string) string { return fmt.Sprintf("/proc/%d/%s", pid, name) }
	p := &process{environ: map[string]string{}}
	var err error
	if p.program, err = os.Readlink(at("exe")); err != nil {
		return nil, err
	}
	if p.folder, err = os.Readlink(at("cwd")); err != nil {
		return nil, err
	}
	args, err := os.ReadFile(at("cmdline"))
	if err != nil {
		return nil, err
	}
	p.args = strings.Split(string(args), "\x00")
	environ, err := os.ReadFile(at("environ"))
	if err != nil {
		return nil, err
	}
	for _, variable := range strings.Split(string(environ), "\x00") {
		if name, value, ok := strings.Cut(variable, "="); ok {
			p.environ[name] = value
		}
	}
	status, err := os.ReadFile(at("stat"))
	if err != nil {
		return nil, err
	}
	// The name, in brackets, may hold anything; then come the state and the parent.
	fields := bytes.Fields(status[bytes.LastIndexByte(status, ')')+1:])
	if len(fields) < 2 {
		return nil, fmt.Errorf("%s has no parent in it", at("stat"))
	}
	p.parent, err = strconv.Atoi(string(fields[1]))
	return p, err
}

// python is the path by which the process's interpreter was called: a virtual
// environment's python is a link, whose target knows nothing of the environment.
func (p *process) python() (string, bool) {
	if !pythonName.MatchString(filepath.Base(p.program)) {
		return "", false
	}
	called := p.args[0]
	switch {
	case strings.ContainsRune(called, '/') && !filepath.IsAbs(called):
		called = filepath.Join(p.folder, called)
	case !strings.ContainsRune(called, '/'):
		called = findIn(p.environ["PATH"], p.folder, called)
	}
	// An interpreter may rename itself (setproctitle), or PATH have changed.
	if target, err := filepath.EvalSymlinks(called); called == "" || err != nil || target != p.program {
		return p.program, true
	}
	return called, true
}

// findIn looks a program up as execvp does.
func findIn(path, folder, name string) string {
	for _, dir := range filepath.SplitList(path) {
		if !filepath.IsAbs(dir) {
			dir = filepath.Join(folder, dir)
		}
		file := filepath.Join(dir, name)
		if info, err := os.Stat(file); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return file
		}
	}
	return ""
}
