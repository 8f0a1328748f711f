package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// environment is a Python, perhaps in a root of its own.
type environment struct {
	Name  string // for scripts/setup-matrix.sh
	Title string
	Torch bool // without it only cbridge's tests run, which need none
}

var environments = []environment{
	{"bookworm", "Debian 12", true},
	{"trixie", "Debian 13", true},
	{"sid", "Debian sid", true},
	{"pip", "the newest torch of PyPI", true},
	{"3.9", "CPython 3.9", false},
	{"3.10", "CPython 3.10", false},
	{"3.12", "CPython 3.12", false},
	{"3.15", "CPython 3.15", false},
}

// installation is an environment that is set up, where its commands run.
type installation struct {
	name   string
	root   string // / is this machine
	python string
	clone  string
}

// run makes the environment and runs every package's tests there.
func (e environment) run(b *build) *result {
	r := &result{Name: e.Name, Title: e.Title}
	p, err := e.setUp(b.root)
	if err == nil {
		err = p.ask(r, e.Torch)
	}
	if err != nil {
		r.Missing = err.Error()
		return r
	}
	for _, one := range b.packages {
		if !e.Torch && one.name != "pyhook/cbridge" {
			continue
		}
		tested := p.test(b, one)
		say("%-9s %-28s %s", e.Name, one.name, tested.cell())
		r.Packages = append(r.Packages, tested)
	}
	return r
}

func (e environment) setUp(clone string) (*installation, error) {
	cmd := exec.Command(filepath.Join(clone, "scripts", "setup-matrix.sh"), e.Name)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		lines := strings.Split(strings.TrimSpace(stderr.String()), "\n")
		return nil, fmt.Errorf("%s (%w)", lines[len(lines)-1], err)
	}
	root, python, found := strings.Cut(strings.TrimSpace(stdout.String()), "\t")
	if !found {
		return nil, fmt.Errorf("setup-matrix.sh said %q", stdout.String())
	}
	return &installation{e.Name, root, python, clone}, nil
}

// ask notes the versions.
func (p *installation) ask(r *result, torch bool) error {
	program := "import json, platform\nfacts = {'python': platform.python_version()}\n"
	if torch {
		program += "import torch\nfacts['torch'] = torch.__version__\n"
	}
	out, err := p.command(p.clone, p.python, "-c", program+"print(json.dumps(facts))").Output()
	if err != nil {
		return fmt.Errorf("asking %s for its versions: %w", p.python, err)
	}
	return json.Unmarshal(out, r)
}

// command runs in folder, in the installation. In another root it sees this clone, /dev
// and /tmp of its own; the mounts end with it.
func (p *installation) command(folder string, argv ...string) *exec.Cmd {
	var cmd *exec.Cmd
	if p.root == "/" {
		cmd = exec.Command(argv[0], argv[1:]...)
		cmd.Dir = folder
	} else {
		const enter = `set -e
mount --bind "$1" "$1" # a mount point, or no mounts can be private in there
mkdir -p "$1$2"
mount --bind "$2" "$1$2"
mount --rbind /dev "$1/dev"
mount --bind /sys "$1/sys"
mount -t proc proc "$1/proc"
touch "$1/etc/hosts" # of debootstrap there is none
mount --bind /etc/hosts "$1/etc/hosts"
root=$1 folder=$3
shift 3
# Not exec at the end: as process 1 of its namespace the command would have no parent.
exec chroot "$root" /bin/sh -c 'cd "$0" || exit; "$@"; exit $?' "$folder" "$@"`
		argv = append([]string{"--mount", "--pid", "--fork", "--kill-child", "--propagation", "private", "/bin/sh", "-c", enter, "sh", p.root, p.clone, folder}, argv...)
		cmd = exec.Command("unshare", argv...)
	}
	cmd.Env = []string{"PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/tmp", "LANG=C.UTF-8", "GLOO_SOCKET_IFNAME=lo",
		"PYHOOK_PYTHON=" + p.python, "CI=" + os.Getenv("CI")}
	return cmd
}
