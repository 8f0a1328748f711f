package cbridge

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

//go:embed probe.py
var probeSource string

// probeTimeout bounds one candidate's answer: a cold network file system is
// slow, a hanging wrapper script must not hang the trainer.
const probeTimeout = 60 * time.Second

// Python describes an interpreter, as it answered probe.py.
type Python struct {
	Executable   string   `json:"executable"`
	Version      string   `json:"version"` // "3.11.2"
	Prefix       string   `json:"prefix"`  // of the virtual environment, if it is one
	BasePrefix   string   `json:"base_prefix"`
	FreeThreaded bool     `json:"free_threaded"`
	Missing      []string `json:"missing"`   // of the modules asked for
	Source       string   `json:"source"`    // why this one: "PYHOOK_PYTHON", "python3 on PATH", ...
	Libraries    []string `json:"libraries"` // where its libpython may be, in order

	Implementation string `json:"implementation"`
	LibDir         string `json:"libdir"`
	Multiarch      string `json:"multiarch"`
	LDLibrary      string `json:"ldlibrary"`
	InstSOName     string `json:"instsoname"`
}

// Attempt is one candidate that was refused, and why.
type Attempt struct {
	What string `json:"what"`
	Why  string `json:"why"`
}

// DiscoveryError lists what was tried when no usable interpreter or library was found, and says
// what to do.
type DiscoveryError struct {
	Tried []Attempt
	Hint  string
}

func (e *DiscoveryError) Error() string {
	var b strings.Builder
	b.WriteString("no usable Python found; tried:")
	for _, t := range e.Tried {
		fmt.Fprintf(&b, "\n  %s: %s", t.What, t.Why)
	}
	if e.Hint != "" {
		b.WriteString("\nhint: " + e.Hint)
	}
	return b.String()
}

type candidate struct {
	path   string
	source string
	chosen bool // named for this purpose: unusable is an error, not "try the next"
}

// candidates returns Discover's candidates in their order. The last one serves the common machine
// whose first python3 on PATH is a bare one from a version manager.
func candidates(explicit string) []candidate {
	if explicit != "" {
		return []candidate{{explicit, "Config.Python", true}}
	}
	if p := os.Getenv("PYHOOK_PYTHON"); p != "" {
		return []candidate{{p, "PYHOOK_PYTHON", true}}
	}
	var list []candidate
	if c, ok := launcherPython(); ok {
		list = append(list, c)
	}
	for _, name := range []string{"VIRTUAL_ENV", "CONDA_PREFIX"} {
		if dir := os.Getenv(name); dir != "" {
			list = append(list, candidate{filepath.Join(dir, "bin", "python"), name, false})
		}
	}
	list = append(list, candidate{"python3", "python3 on PATH", false})
	return append(list, candidate{"/usr/bin/python3", "the system's python3", false})
}

// Discover chooses an interpreter: explicit, or PYHOOK_PYTHON, or that of the torchrun which
// started this process, VIRTUAL_ENV's, CONDA_PREFIX's, python3 on PATH, /usr/bin/python3. It takes
// the first that runs and can find the given modules (top-level names; it does not import them),
// and uses or refuses one named by explicit or PYHOOK_PYTHON, never replaces it. The attempts are
// those refused on the way. The error is a *DiscoveryError.
func Discover(ctx context.Context, explicit string, modules ...string) (*Python, []Attempt, error) {
	var tried []Attempt
	seen := map[string]bool{}
	for _, c := range candidates(explicit) {
		path, err := exec.LookPath(c.path)
		if err != nil {
			tried = append(tried, Attempt{fmt.Sprintf("%s (%s)", c.path, c.source), "not found or not executable"})
			continue
		}
		if seen[path] {
			continue
		}
		seen[path] = true
		python, err := probe(ctx, path, modules)
		if err == nil {
			python.Source = c.source
			return python, tried, nil
		}
		if ctx.Err() != nil {
			return nil, tried, fmt.Errorf("asking %s (%s) what it is: %w", path, c.source, ctx.Err())
		}
		tried = append(tried, Attempt{fmt.Sprintf("%s (%s)", path, c.source), err.Error()})
	}
	hint := "set PYHOOK_PYTHON to an interpreter"
	if home := os.Getenv("PYTHONHOME"); home != "" {
		hint = fmt.Sprintf("unset PYTHONHOME, which is %s and fits one installation of Python only; or %s", home, hint)
	}
	if len(modules) > 0 {
		hint += " that has " + strings.Join(modules, ", ") +
			" (a virtual environment: python3 -m venv env && env/bin/pip install " + strings.Join(modules, " ") + ")"
	}
	return nil, tried, &DiscoveryError{Tried: tried, Hint: hint}
}

func probe(ctx context.Context, path string, modules []string) (*Python, error) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, append([]string{"-c", probeSource}, modules...)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	// A wrapper script's child may live on and hold the pipes.
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return nil, fmt.Errorf("did not answer: %w", ctx.Err())
		}
		return nil, fmt.Errorf("does not run: %w: %s", err, pythonsWords(stderr.String()))
	}
	// sitecustomize and .pth files may print first: the answer is the last line.
	var python Python
	if err := json.Unmarshal([]byte(lastLine(stdout.String())), &python); err != nil {
		return nil, fmt.Errorf("did not answer as a Python does: %q", lastLine(stdout.String()))
	}
	if python.Implementation != "cpython" {
		return nil, fmt.Errorf("is %s, and pyhook needs CPython", python.Implementation)
	}
	if minor := minorVersion(python.Version); minor < 9 {
		return nil, fmt.Errorf("is Python %s, and pyhook needs 3.9 or newer", python.Version)
	}
	if len(python.Missing) > 0 {
		return nil, fmt.Errorf("Python %s has no module %s", python.Version, strings.Join(python.Missing, ", "))
	}
	python.Libraries = libraries(&python)
	return &python, nil
}

func lastLine(text string) string {
	text = strings.TrimSpace(text)
	return text[strings.LastIndexByte(text, '\n')+1:]
}

// exceptionLine is the last line of a traceback.
var exceptionLine = regexp.MustCompile(`(?m)^[A-Za-z_.]+: .+$`)

// pythonsWords returns why an interpreter did not run. Around a fatal error at its start, of a
// wrong PYTHONHOME for example, it prints its path configuration and an empty stack.
func pythonsWords(stderr string) string {
	const fatal = "Fatal Python error: "
	at := strings.Index(stderr, fatal)
	if at < 0 {
		return lastLine(stderr)
	}
	words, rest, _ := strings.Cut(stderr[at:], "\n")
	_, rest, _ = strings.Cut(rest, "\n") // the runtime's state
	if exception := exceptionLine.FindString(rest); exception != "" {
		words += ": " + exception
	}
	return words
}

// minorVersion of "3.N.x"; -1 for anything that is not Python 3.
func minorVersion(version string) int {
	parts := strings.SplitN(version, ".", 3)
	if len(parts) < 2 || parts[0] != "3" {
		return -1
	}
	minor, err := strconv.Atoi(parts[1])
	if err != nil {
		return -1
	}
	return minor
}

// libraries lists where python's shared library may be. sysconfig only hints at it: conda denies
// the library that it ships, relocatable builds name the build machine's prefix, and Debian keeps
// it in the multiarch folder.
func libraries(p *Python) []string {
	abi := ""
	if p.FreeThreaded {
		abi = "t"
	}
	base := fmt.Sprintf("libpython3.%d%s", minorVersion(p.Version), abi)
	names := []string{p.InstSOName, p.LDLibrary, base + ".so.1.0", base + ".so"}
	dirs := []string{p.LibDir, filepath.Join(p.LibDir, p.Multiarch), filepath.Join(p.BasePrefix, "lib"),
		filepath.Join(p.BasePrefix, "lib", p.Multiarch)}
	if real, err := filepath.EvalSymlinks(p.Executable); err == nil {
		dirs = append(dirs, filepath.Join(filepath.Dir(filepath.Dir(real)), "lib"))
	}
	var list []string
	seen := map[string]bool{}
	add := func(path string) {
		if !seen[path] {
			seen[path] = true
			list = append(list, path)
		}
	}
	for _, name := range names {
		if name == "" || strings.HasSuffix(name, ".a") {
			continue
		}
		for _, dir := range dirs {
			if path := filepath.Join(dir, name); filepath.IsAbs(path) {
				if _, err := os.Stat(path); err == nil {
					add(path)
				}
			}
		}
	}
	add(names[2]) // bare: the dynamic linker's own search
	return list
}

// libraryHint says how to get the library that python lacks.
func libraryHint(p *Python) string {
	minor := minorVersion(p.Version)
	switch {
	case strings.HasPrefix(p.BasePrefix, "/usr"):
		return fmt.Sprintf("install the package libpython3.%d (Debian, Ubuntu) or python3-libs (Fedora)", minor)
	case os.Getenv("CONDA_PREFIX") != "":
		return "conda install libpython"
	default:
		return "this interpreter was built without a shared library: rebuild it with --enable-shared " +
			"(pyenv: PYTHON_CONFIGURE_OPTS=--enable-shared), or choose another with PYHOOK_PYTHON"
	}
}

var errNoLibrary = errors.New("no shared libpython")
