package hookbench

import (
	"bytes"
	"context"
	"embed"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

//go:embed peer/build.py peer/loops.py peer/python_comm_hook_peer.cpp
var peerFiles embed.FS

// buildPeer writes the peer's files into a folder below into, compiles the C++
// side, once for each torch, and returns both folders. Without a compiler or
// headers there is only the first.
func buildPeer(ctx context.Context, python, into string, say func(string, ...any)) (sources, built string, err error) {
	into, err = filepath.Abs(into)
	if err != nil {
		return "", "", err
	}
	sources = filepath.Join(into, "peer", "source")
	if err := os.MkdirAll(sources, 0o777); err != nil {
		return "", "", err
	}
	files, err := fs.ReadDir(peerFiles, "peer")
	if err != nil {
		return "", "", err
	}
	for _, file := range files {
		text, err := peerFiles.ReadFile("peer/" + file.Name())
		if err != nil {
			return "", "", err
		}
		if err := os.WriteFile(filepath.Join(sources, file.Name()), text, 0o666); err != nil {
			return "", "", err
		}
	}
	say("building the C++ peer, if it is not there yet")
	cmd := exec.CommandContext(ctx, python, filepath.Join(sources, "build.py"), filepath.Join(into, "peer"))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	folder, err := cmd.Output()
	if err != nil {
		return sources, "", fmt.Errorf("the C++ peer cannot be built: %w: %s", err, strings.TrimSpace(stderr.String()))
	}
	return sources, string(bytes.TrimSpace(folder)), nil
}
