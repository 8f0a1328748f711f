package simdevice

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// Device is the built device.
type Device struct {
	Python string   // the interpreter that it is for
	Path   []string // for sys.path: import simdevice is found there
}

// tooOld is build.py's exit status for a torch that the device is not for.
const tooOld = 3

// Build is Get for what is no test. Where torch is too old for the device the error says so.
func Build() (*Device, error) { return build() }

var build = sync.OnceValues(func() (*Device, error) {
	python := os.Getenv("PYHOOK_SIM_PYTHON")
	if python == "" {
		python = os.Getenv("PYHOOK_PYTHON")
	}
	if python == "" {
		python = "python3"
	}
	sources := filepath.Join(folder(), "device")
	into, err := cache()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(python, filepath.Join(sources, "build.py"), into)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("building the simulated device for %s: %w: %s", python, err, strings.TrimSpace(stderr.String()))
	}
	return &Device{python, []string{sources, strings.TrimSpace(string(out))}}, nil
})

// Get builds the device, once for each torch and state of its sources; it is kept in PYHOOK_CACHE.
// Where torch is too old for it the test is skipped, but not if PYHOOK_SIM_PYTHON asks for it.
func Get(t testing.TB) *Device {
	t.Helper()
	device, err := build()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == tooOld && os.Getenv("PYHOOK_SIM_PYTHON") == "" {
		t.Skipf("%v\nscripts/test.sh simdevice runs this test", err)
	}
	require.NoError(t, err)
	return device
}

// Command runs a script that can import simdevice.
func (d *Device) Command(script string, args ...string) *exec.Cmd {
	cmd := exec.Command(d.Python, append([]string{script}, args...)...)
	path := append([]string{filepath.Join(folder(), "../../python")}, d.Path...)
	cmd.Env = append(os.Environ(), "PYTHONPATH="+strings.Join(path, ":"), "OMP_NUM_THREADS=1", "GLOO_SOCKET_IFNAME=lo")
	return cmd
}

// folder is this package's, also where a compiled test runs elsewhere.
func folder() string {
	_, file, _, _ := runtime.Caller(0)
	if _, err := os.Stat(file); err == nil {
		return filepath.Dir(file)
	}
	return "." // go test starts each package's tests in its folder
}

func cache() (string, error) {
	if set := os.Getenv("PYHOOK_CACHE"); set != "" {
		return filepath.Join(set, "simdevice"), nil
	}
	user, err := os.UserCacheDir()
	return filepath.Join(user, "pyhook", "simdevice"), err
}
