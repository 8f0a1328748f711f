package docker_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// maximumOverBase is what the image without torch may add, in bytes.
const maximumOverBase = 60_000_000

func size(t *testing.T, name string) int64 {
	t.Helper()
	n, err := strconv.ParseInt(docker(t, "image", "inspect", "--format", "{{.Size}}", name), 10, 64)
	require.NoError(t, err)
	return n
}

func TestTheImageWithoutTorchIsSmall(t *testing.T) {
	over := size(t, image+":none") - size(t, base)
	t.Logf("base %.1f MB, without torch %.1f MB over it, with Debian's torch %.1f MB over it",
		float64(size(t, base))/1e6, float64(over)/1e6, float64(size(t, image+":cpu")-size(t, base))/1e6)
	assert.Positive(t, over)
	assert.LessOrEqual(t, over, int64(maximumOverBase))
}

func TestTheImageTrainsTheDemo(t *testing.T) {
	folder := shared(t)
	out, err := run("-v", folder+":/data", image+":cpu", "demo", "--out", "/data/demo")
	require.NoError(t, err, "%s", out)
	for _, hook := range hooks {
		assert.Regexp(t, `(?m)^`+hook+` +0\.9[5-9]\d+ +bitwise alike `, out)
	}
	for _, file := range []string{"summary.json", "loss.png"} {
		assert.FileExists(t, filepath.Join(folder, "demo", file))
	}
}

// diagnosis is a part of pyhook doctor's report.
type diagnosis struct {
	Healthy bool   `json:"healthy"`
	Version string `json:"version"`
	Python  struct {
		Executable string `json:"executable"`
	} `json:"python"`
	Checks []struct {
		ID, Status, Message string
	} `json:"checks"`
}

func diagnosed(t *testing.T, out string) diagnosis {
	t.Helper()
	begin := strings.Index(out, "{")
	require.GreaterOrEqual(t, begin, 0, "%s", out)
	var d diagnosis
	require.NoError(t, json.NewDecoder(strings.NewReader(out[begin:])).Decode(&d), "%s", out)
	return d
}

// dropCaches makes what comes read from the disk, where this may be asked for.
func dropCaches(t *testing.T) string {
	t.Helper()
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0); err != nil {
		return "files perhaps in memory"
	}
	return "files from the disk"
}

// timedDoctor runs doctor in a fresh container.
func timedDoctor(t *testing.T, tag string) (diagnosis, time.Duration, error) {
	t.Helper()
	state := dropCaches(t)
	start := time.Now()
	out, err := run(image+":"+tag, "doctor", "--json")
	took := time.Since(start)
	t.Logf("%s, %s: %.2f s with the container's start and end", tag, state, took.Seconds())
	return diagnosed(t, out), took, err
}

func TestDoctorOfTheImageWithTorchFindsNothingToMend(t *testing.T) {
	d, _, err := timedDoctor(t, "cpu")
	require.NoError(t, err)
	assert.True(t, d.Healthy, "%+v", d)
	assert.NotContains(t, []string{"", "unknown"}, d.Version)
}

// TestDoctorOfTheImageWithoutTorchSaysWhatIsMissing, and soon: the best of
// three counts, as this machine may be busy.
func TestDoctorOfTheImageWithoutTorchSaysWhatIsMissing(t *testing.T) {
	best := time.Hour
	for range 3 {
		d, took, err := timedDoctor(t, "none")
		best = min(best, took)
		require.ErrorContains(t, err, "exit status 3")
		assert.False(t, d.Healthy)
		assert.Equal(t, "/usr/bin/python3", d.Python.Executable)
		require.NotEmpty(t, d.Checks)
		assert.Contains(t, d.Checks[0].Message, "no Python with torch")
	}
	assert.Less(t, best, 2*time.Second)
}

// TestTorchMayBeMounted: an environment at /opt/torch, such as one made by the
// image's own Python, is found first.
func TestTorchMayBeMounted(t *testing.T) {
	folder := shared(t)
	// An environment whose torch is that of the other image.
	out, err := run("-v", folder+":/opt/torch", "--entrypoint", "sh", image+":cpu", "-c",
		`mkdir -p /opt/torch/bin && ln -s /usr/bin/python3 /opt/torch/bin/python3 &&
		printf 'home = /usr/bin\ninclude-system-site-packages = true\n' >/opt/torch/pyvenv.cfg`)
	require.NoError(t, err, "%s", out)
	out, err = run("-v", folder+":/opt/torch:ro", image+":cpu", "doctor", "--quick", "--json")
	require.NoError(t, err, "%s", out)
	assert.Equal(t, "/opt/torch/bin/python3", diagnosed(t, out).Python.Executable)
}

func TestTheContainerIsNoRootAndSaysWhatItIs(t *testing.T) {
	for _, tag := range []string{"cpu", "none"} {
		t.Run(tag, func(t *testing.T) {
			out, err := run("--entrypoint", "sh", image+":"+tag, "-c", "id -u; touch /data/mine && echo writable; touch /usr/mine 2>/dev/null || echo kept")
			require.NoError(t, err, "%s", out)
			assert.Regexp(t, `^10001\nwritable\nkept\n$`, out)
			var labels map[string]string
			require.NoError(t, json.Unmarshal([]byte(docker(t, "image", "inspect", "--format", "{{json .Config.Labels}}", image+":"+tag)), &labels))
			assert.Equal(t, "pyhook", labels["org.opencontainers.image.title"])
			assert.Equal(t, base, labels["org.opencontainers.image.base.name"])
			assert.Equal(t, tag, labels["pyhook.variant"])
			for _, name := range []string{"version", "revision"} {
				assert.NotContains(t, []string{"", "unknown"}, labels["org.opencontainers.image."+name], name)
			}
		})
	}
}

// TestInitReapsAndTheHealthCheckPasses looks at a container that runs.
func TestInitReapsAndTheHealthCheckPasses(t *testing.T) {
	id := docker(t, "run", "-d", "--label", "pyhook.test=run", "--network", "none", "--health-interval", "1s", image+":cpu",
		"train", "--epochs", "100000")
	t.Cleanup(func() { _, _ = command(nil, "docker", "rm", "-f", id) })
	assert.Equal(t, "tini", docker(t, "exec", id, "cat", "/proc/1/comm"))
	state := func() string { return docker(t, "inspect", "--format", "{{.State.Health.Status}}", id) }
	for deadline := time.Now().Add(time.Minute); state() != "healthy" && time.Now().Before(deadline); {
		time.Sleep(200 * time.Millisecond)
	}
	require.Equal(t, "healthy", state(), "%s", docker(t, "inspect", "--format", "{{json .State.Health}}", id))
	start := time.Now()
	docker(t, "stop", "-t", "20", id)
	assert.Less(t, time.Since(start), 10*time.Second, "SIGTERM reaches pyhook and its ranks")
	assert.Equal(t, "143", docker(t, "inspect", "--format", "{{.State.ExitCode}}", id))
}
