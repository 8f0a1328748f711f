package doctor

import (
	"bytes"
	"errors"
	"testing"

	"github.com/stretchr/testify/assert"

	"pyhook/cbridge"
	"pyhook/internal/cli"
	"pyhook/internal/cli/clitest"
	"pyhook/internal/report"
)

func doctorText(r *doctorReport) string {
	var out bytes.Buffer
	printDoctor(report.New(&out), r)
	return out.String()
}

func sampleDoctor() *doctorReport {
	return &doctorReport{
		Version:  "v1.0.0",
		Python:   &doctorPython{Executable: "/env/bin/python", Source: "VIRTUAL_ENV", Version: "3.13.0", Prefix: "/env", VirtualEnv: true},
		Refused:  []cbridge.Attempt{},
		Backends: map[string]*doctorBackend{},
	}
}

func TestDoctorOfAGoodMachine(t *testing.T) {
	r := sampleDoctor()
	r.takeProbe(&probeResult{Environment: map[string]any{
		"numpy": "2.5.5", "distributed_available": true, "libuv_works": false, "torchrun_broken": true,
		"backends": map[string]any{"gloo": true, "nccl": true, "mpi": false}, "devices": []any{},
	}})
	r.Python.Version, r.Python.Library, r.Torch.Version = "3.13.0", "/usr/lib/libpython3.13.so", "2.15.0"
	t.Setenv("USE_LIBUV", "")
	r.checkTorch()
	r.checkThreads("", 8)
	gloo := r.Backends["gloo"]
	gloo.Tried, gloo.Ranks = true, 2
	gloo.DTypes = map[string]string{"float32": "", "float64": "", "float16": "RuntimeError: Invalid scalar type", "int64": "", "bfloat16": ""}
	r.checkHalf("gloo", gloo.DTypes)
	r.conclude(true)
	assert.True(t, r.Healthy)
	assert.Equal(t, cli.ExitOK, r.ExitCode)
	clitest.Golden(t, "doctor_ready.txt", doctorText(r))
}

func TestDoctorOfATorchThatCrashes(t *testing.T) {
	r := sampleDoctor()
	usable := r.takeProbe(&probeResult{Died: "the process was ended by segmentation fault", Output: "one\ntwo"})
	r.conclude(usable)
	assert.False(t, r.Healthy)
	assert.Equal(t, cli.ExitNoPython, r.ExitCode)
	clitest.Golden(t, "doctor_crash.txt", doctorText(r))
}

func TestDoctorFindsTraps(t *testing.T) {
	status := func(r *doctorReport, id string) string {
		for _, c := range r.Checks {
			if c.ID == id {
				return c.Status
			}
		}
		return ""
	}
	r := sampleDoctor()
	r.takeProbe(&probeResult{Environment: map[string]any{"numpy": nil, "distributed_available": true}})
	r.Torch.Version = "2.3.0"
	r.checkTorch()
	assert.Equal(t, statusWarning, status(r, "numpy"))
	assert.Equal(t, statusOK, status(r, "torchrun"))
	assert.Empty(t, status(r, "libuv"), "torch 2.3 does not ask for libuv")

	r = sampleDoctor()
	r.takeProbe(&probeResult{Environment: map[string]any{"distributed_available": true, "torchrun_lacks_libuv": true}})
	r.Torch.Version = "2.6.0+debian"
	r.checkTorch()
	assert.Equal(t, statusWarning, status(r, "torchrun"))
	assert.Empty(t, status(r, "libuv"), "said once")

	r = sampleDoctor()
	r.takeProbe(&probeResult{Environment: map[string]any{"distributed_available": false}})
	r.checkTorch()
	r.conclude(true)
	assert.Equal(t, statusProblem, status(r, "distributed"))
	assert.Equal(t, cli.ExitFailed, r.ExitCode)

	for setting, want := range map[string]string{"": statusOK, "4": statusOK, "64": statusWarning, "none": statusWarning, "0": statusWarning} {
		r = sampleDoctor()
		r.checkThreads(setting, 8)
		assert.Equal(t, want, status(r, "threads"), setting)
	}

	r = sampleDoctor()
	t.Setenv("GLOO_SOCKET_IFNAME", "eth7")
	r.checkHostname()
	assert.Equal(t, statusOK, status(r, "hostname"))
}

func TestDoctorWarnsOfAHostnameThatIsLoopback(t *testing.T) {
	for text, c := range map[string]struct {
		found []string
		err   error
		want  string
	}{
		"Debian's installer":          {[]string{"127.0.1.1"}, nil, statusWarning},
		"both loopbacks":              {[]string{"127.0.0.1", "::1"}, nil, statusWarning},
		"an address of the machine":   {[]string{"10.0.0.7"}, nil, statusOK},
		"loopback and such a one":     {[]string{"127.0.1.1", "fe80::1", "10.0.0.7"}, nil, statusOK},
		"a name that nobody resolves": {nil, errors.New("no such host"), statusWarning},
	} {
		r := sampleDoctor()
		r.judgeHostname("debian", c.found, c.err)
		assert.Equal(t, c.want, r.Checks[0].Status, text)
		if c.want == statusWarning {
			assert.Contains(t, r.Checks[0].Hint, "GLOO_SOCKET_IFNAME")
		}
		if len(c.found) == 1 && c.want == statusWarning {
			assert.Contains(t, r.Checks[0].Message, "the hostname debian is 127.0.1.1 here")
		}
	}
}

func TestTorchVersions(t *testing.T) {
	for version, want := range map[string]bool{"2.4.0": true, "2.4.1+cpu": true, "2.14.1": true, "2.4a0": true, "3.0": true,
		"2.3.9": false, "1.13.0a0": false, "": false, "two": false} {
		assert.Equal(t, want, torchAtLeast(version, 2, 4), version)
	}
}

func TestProbedDictsBecomeJSON(t *testing.T) {
	assert.Equal(t, map[string]any{"gloo": true, "1": map[string]any{"a": nil}}, forJSON(map[any]any{"gloo": true, int64(1): map[any]any{"a": nil}}))
	assert.Equal(t, "text", forJSON("text"))
}

func TestJSONFieldsAreThoseOfTheHelp(t *testing.T) {
	clitest.NeedFields(t, JSONHelp, doctorReport{Python: &doctorPython{}, Torch: &doctorTorch{}, Backends: map[string]*doctorBackend{"g": {Error: "x"}},
		Checks: []doctorCheck{{Hint: "x"}}})
}
