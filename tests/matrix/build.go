package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// build is what all environments run: the same files.
type build struct {
	root     string // of the clone; environments see it at the same path
	command  string // cmd/pyhook
	packages []testPackage
}

type testPackage struct {
	name   string // pyhook/cbridge
	folder string
	binary string
}

// notInMatrix are packages that need Go or a C compiler as they run, measure
// something, or start containers.
var notInMatrix = regexp.MustCompile(`^pyhook/tests/(bench|build|cmem|examples|soak|matrix|docker|release|kubernetes)(/|$)`)

// buildTests builds them on this machine, for the oldest glibc.
func buildTests(root string, only *regexp.Regexp) (*build, error) {
	b := &build{root: root}
	into := filepath.Join(root, "out", "matrix", "bin")
	if err := os.MkdirAll(into, 0o755); err != nil {
		return nil, err
	}
	list, err := goCommand(root, "list", "-f", "{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}\t{{.Dir}}{{end}}", "./...")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(list) {
		name, folder, _ := strings.Cut(strings.TrimSpace(line), "\t")
		if name == "" || notInMatrix.MatchString(name) || !only.MatchString(name) {
			continue
		}
		binary := filepath.Join(into, strings.ReplaceAll(strings.TrimPrefix(name, "pyhook/"), "/", "-")+".test")
		say("building %s", name)
		if _, err := goCommand(root, "test", "-c", "-o", binary, name); err != nil {
			return nil, err
		}
		b.packages = append(b.packages, testPackage{name, folder, binary})
	}
	if len(b.packages) == 0 {
		return nil, fmt.Errorf("no package matches %q: write pyhook/ddp$", only)
	}
	b.command = filepath.Join(into, "pyhook")
	_, err = goCommand(root, "build", "-buildvcs=false", "-ldflags", "-X main.version=v0.0.0-test", "-o", b.command, "./cmd/pyhook")
	return b, err
}

func goCommand(root string, args ...string) (string, error) {
	cmd := exec.Command("go", args...)
	cmd.Dir = root
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, stderr.Bytes())
	}
	return stdout.String(), nil
}
