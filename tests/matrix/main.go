// Command matrix runs one build of the tests, unchanged, under every Python and
// torch that pyhook is for, and writes docs/compatibility.md from what came out.
//
//	make matrix                              # everything; the first run makes the environments
//	go run ./tests/matrix -run 'trixie|3.15' # some: the page keeps what it knows of the others
//	go run ./tests/matrix -run sid -packages 'tests/ddp$'
//
// scripts/setup-matrix.sh makes the environments. It needs root for Debian's.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "matrix:", err)
		os.Exit(1)
	}
}

func run() error {
	pattern := flag.String("run", ".", "environments to run: a regular expression on their names")
	packages := flag.String("packages", ".", "packages to test: a regular expression; the page keeps what it knows of the others")
	flag.Parse()
	chosen, err := regexp.Compile(*pattern)
	if err != nil {
		return fmt.Errorf("-run: %w", err)
	}
	only, err := regexp.Compile(*packages)
	if err != nil {
		return fmt.Errorf("-packages: %w", err)
	}
	root, err := cloneRoot()
	if err != nil {
		return err
	}
	b, err := buildTests(root, only)
	if err != nil {
		return err
	}
	failed := false
	for _, e := range environments {
		if !chosen.MatchString(e.Name) {
			continue
		}
		began := time.Now()
		r := e.run(b)
		failed = failed || r.failed()
		say("%s: %s in %s", e.Name, r.verdict(), time.Since(began).Round(time.Second))
		if *packages != "." {
			if err := r.merge(root); err != nil {
				return err
			}
		}
		if err := r.save(root); err != nil {
			return err
		}
	}
	if err := writePage(root); err != nil {
		return err
	}
	say("wrote %s", pagePath)
	if failed {
		return errors.New("not everything passed")
	}
	return nil
}

func say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "matrix: "+format+"\n", args...)
}

// cloneRoot is the folder of go.mod.
func cloneRoot() (string, error) {
	out, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("go env: %w", err)
	}
	return filepath.Dir(strings.TrimSpace(string(out))), nil
}
