package parity

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// expectations is oracle/upstream_failures.json or upstream_silently_wrong.json.
type expectations map[string]map[string]*string

func loadExpectations(t *testing.T, file string) expectations {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("oracle", file))
	require.NoError(t, err)
	var list expectations
	require.NoError(t, json.Unmarshal(data, &list))
	return list
}

// of returns the text listed for this torch: an exact version beats its
// major.minor. Not listed, or null: the case must run (or be right).
func (e expectations) of(name, torch string) (text string, listed bool) {
	row := e[name]
	for _, key := range []string{torch, strings.Join(strings.SplitN(torch, ".", 3)[:2], ".")} {
		if text, ok := row[key]; ok {
			if text == nil {
				return "", false
			}
			return *text, true
		}
	}
	return "", false
}

// verdict is the oracle's error.json; nil error means that PyTorch ran.
type verdict struct {
	Stage   string `json:"stage"`
	Type    string `json:"type"`
	Message string `json:"message"`
	Torch   string `json:"torch"`
}

func (v verdict) String() string { return v.Type + ": " + v.Message }

// short is the error as the table shows it: PyTorch wraps a callback's error
// once for each `then` that it went through, and names the file it came from.
func (v verdict) short() string {
	line, _, _ := strings.Cut(v.Message, "\n")
	kind := v.Type[strings.LastIndex(v.Type, ".")+1:]
	inner := innerType.FindAllString(line, -1)
	if len(inner) > 0 && kind == "RuntimeError" {
		kind = strings.TrimSuffix(inner[len(inner)-1], ": ")
	}
	line = strings.ReplaceAll(line, "Got the following error when running the callback: ", "")
	line = strings.TrimSpace(innerType.ReplaceAllString(line, ""))
	return strings.TrimSuffix(kind+": "+line, ": ")
}

// innerType is a Python exception's type before its message.
var innerType = regexp.MustCompile(`\b[A-Z]\w*Error: `)

// runOracle runs PyTorch on case files; the dumps and verdicts are in
// root/<case>.
func runOracle(python, root, via string, files ...string) error {
	args := append([]string{"-B", filepath.Join("oracle", "oracle.py"), "--via", via, "--all", root}, files...)
	cmd := exec.Command(python, args...)
	cmd.Env = append(os.Environ(), "OMP_NUM_THREADS=1", "OPENBLAS_NUM_THREADS=1", "MKL_NUM_THREADS=1")
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 3 {
		return nil // PyTorch failed in some case: its verdict says so
	}
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(args[1:5], " "), err, out)
	}
	return nil
}

// readVerdict returns PyTorch's error for a case, or ok.
func readVerdict(t *testing.T, dir string) (v verdict, ok bool) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, "error.json"))
	ok = err != nil
	if ok {
		data, err = os.ReadFile(filepath.Join(dir, "meta.json"))
	}
	require.NoError(t, err, "the oracle left no verdict")
	require.NoError(t, json.Unmarshal(data, &v))
	return v, ok
}
