package main

import (
	"cmp"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/google/licensecheck"
)

// part is one Go module, or Go's own library, that is linked into a binary.
type part struct {
	path, version string
	sum           string // as in go.sum; empty for Go's library
	licenses      []license
}

type license struct {
	file string
	text string
	ids  []string // of SPDX
}

// linked returns the parts of all binaries together, by path.
func linked(source string, binaries []string) ([]part, error) {
	folders, err := moduleFolders(source)
	if err != nil {
		return nil, err
	}
	parts := map[string]part{}
	for _, binary := range binaries {
		info, err := buildinfo.ReadFile(binary)
		if err != nil {
			return nil, err
		}
		parts["std"] = part{path: "std", version: info.GoVersion}
		for _, m := range info.Deps {
			if m.Replace != nil {
				return nil, fmt.Errorf("%s: %s is replaced by %s: a release has no such parts", binary, m.Path, m.Replace.Path)
			}
			parts[m.Path] = part{path: m.Path, version: m.Version, sum: m.Sum}
		}
	}
	sorted := slices.SortedFunc(maps.Values(parts), func(a, b part) int { return cmp.Compare(a.path, b.path) })
	for i, p := range sorted {
		if sorted[i].licenses, err = licensesOf(p.path, folders[p.path]); err != nil {
			return nil, fmt.Errorf("%s %s: %w", p.path, p.version, err)
		}
	}
	return sorted, nil
}

// moduleFolders says where the sources of each module are, and Go's own as "std".
func moduleFolders(source string) (map[string]string, error) {
	list := exec.Command("go", "list", "-m", "-json", "all")
	list.Dir, list.Stderr = source, os.Stderr
	out, err := list.Output()
	if err != nil {
		return nil, fmt.Errorf("go list -m all: %w", err)
	}
	folders := map[string]string{}
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var m struct{ Path, Dir string }
		if err := d.Decode(&m); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, err
		}
		folders[m.Path] = m.Dir
	}
	root, err := exec.Command("go", "env", "GOROOT").Output()
	folders["std"] = strings.TrimSpace(string(root))
	return folders, err
}

var licenseFile = regexp.MustCompile(`(?i)^(LICEN[CS]E|COPYING|NOTICE|PATENTS)([.-].*)?$`)

// chosen are modules whose LICENSE is but a choice between licences in other
// files: the one taken, and its SPDX name.
var chosen = map[string][2]string{"github.com/golang/freetype": {"licenses/ftl.txt", "FTL"}}

func licensesOf(module, folder string) ([]license, error) {
	choice, ok := chosen[module]
	if !ok {
		return licensesIn(folder)
	}
	text, err := os.ReadFile(filepath.Join(folder, choice[0]))
	return []license{{file: choice[0], text: string(text), ids: []string{choice[1]}}}, err
}

// licensesIn reads the licence files at the top of a module. A module without
// one may not be passed on, so that is an error; so is a text that is not known.
func licensesIn(folder string) ([]license, error) {
	files, err := os.ReadDir(folder)
	if err != nil {
		return nil, fmt.Errorf("its sources are not in the module cache (go mod download): %w", err)
	}
	var found []license
	known := false
	for _, f := range files {
		if f.IsDir() || !licenseFile.MatchString(f.Name()) {
			continue
		}
		text, err := os.ReadFile(filepath.Join(folder, f.Name()))
		if err != nil {
			return nil, err
		}
		l := license{file: f.Name(), text: string(text)}
		for _, m := range licensecheck.Scan(text).Match {
			// Google's grant of patents has no name in SPDX.
			if !m.IsURL && m.ID != "GooglePatentsFile" && !slices.Contains(l.ids, m.ID) {
				l.ids = append(l.ids, m.ID)
			}
		}
		known = known || len(l.ids) > 0
		found = append(found, l)
	}
	if !known {
		return nil, fmt.Errorf("no known licence among the %d licence files of %s", len(found), folder)
	}
	return found, nil
}

// writeLicenses writes every text once a part, headed by whose it is.
func writeLicenses(path string, parts []part) error {
	var b strings.Builder
	b.WriteString("What the pyhook binary is linked from, and the licence of each.\n")
	for _, p := range parts {
		for _, l := range p.licenses {
			fmt.Fprintf(&b, "\n%s\n%s %s, %s\n\n%s\n", strings.Repeat("=", 80), p.path, p.version, l.file, strings.TrimSpace(l.text))
		}
	}
	return os.WriteFile(path, []byte(b.String()), 0o644)
}
