package docker_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// training is what a job computes.
type training struct {
	hosts  int
	hook   string
	epochs int
}

func (tr training) String() string { return fmt.Sprintf("%s on %d", tr.hook, tr.hosts) }

// steps of an epoch.
const stepsAnEpoch = 22

// timeout is the ranks' --timeout.
const timeout = 10 * time.Second

func (tr training) arguments() string {
	return fmt.Sprintf("train --hook %s --epochs %d --timeout %s --checkpoint /data/digits.ckpt --json", tr.hook, tr.epochs, timeout)
}

// job is a compose project that runs one training.
type job struct {
	t *testing.T
	training
	project string
	folder  string   // /data of every container
	ids     []string // of the hosts' containers
}

// jobs counts them: each has a network of its own.
var jobs atomic.Int64

// start brings up the containers.
func start(t *testing.T, tr training) *job {
	t.Helper()
	n := (os.Getpid() + int(jobs.Add(1))) % 256
	j := &job{t: t, training: tr, project: fmt.Sprintf("pyhook-test-%d", n), folder: shared(t)}
	env := []string{"HOSTS=" + strconv.Itoa(tr.hosts), "PYHOOK_IMAGE=" + image + ":cpu", "DATA=" + j.folder, "JOB=" + j.project,
		"SUBNET=" + fmt.Sprintf("172.28.%d.0/24", n), "COMMAND=pyhook " + tr.arguments(), "OMP_NUM_THREADS=1"}
	call := func(args ...string) (string, error) {
		args = append(append([]string{}, compose[1:]...), append([]string{"-p", j.project, "-f", "../../deploy/compose/compose.yaml", "-f", "testdata/test.yaml"}, args...)...)
		return command(env, compose[0], args...)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%s", j.logs())
		}
		if out, err := call("down", "-v", "-t", "0", "--remove-orphans"); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	})
	out, err := call("up", "-d")
	require.NoError(t, err, "%s", out)
	j.ids = strings.Fields(docker(t, "ps", "-aq", "--filter", "label=com.docker.compose.project="+j.project, "--filter", "label=com.docker.compose.service=host"))
	require.Len(t, j.ids, tr.hosts)
	return j
}

// losses are most of a report's lines.
var losses = regexp.MustCompile(`(?m)^\S+ (?:\[default0\]:)? +[0-9.e-]+,?\n`)

// logs are what every container wrote, with times.
func (j *job) logs() string {
	var all strings.Builder
	for i, id := range j.ids {
		out, err := command(nil, "docker", "logs", "-t", id)
		fmt.Fprintf(&all, "---- host %d (%s) %v\n%s\n", i, id, err, losses.ReplaceAllString(out, ""))
	}
	return all.String()
}

// inspect asks about a host.
func (j *job) inspect(host int, format string) string {
	j.t.Helper()
	return docker(j.t, "inspect", "--format", format, j.ids[host])
}

// wait returns when every host has ended well.
func (j *job) wait() {
	j.t.Helper()
	deadline := time.Now().Add(4 * time.Minute)
	for host := range j.ids {
		for j.inspect(host, "{{.State.Status}} {{.State.ExitCode}}") != "exited 0" {
			require.True(j.t, time.Now().Before(deadline), "host %d did not end", host)
			time.Sleep(200 * time.Millisecond)
		}
	}
}

// latest is the step of the last checkpoint, or 0.
func (j *job) latest() int {
	begin := filepath.Join(j.folder, "digits.ckpt.step")
	files, _ := filepath.Glob(begin + "*.hook0")
	last := 0
	for _, file := range files {
		step, _ := strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(file, begin), ".hook0"))
		last = max(last, step)
	}
	return last
}

// saved waits for a checkpoint of a step after the given one.
func (j *job) saved(after int) int {
	j.t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if step := j.latest(); step > after {
			return step
		}
	}
	require.Fail(j.t, "no further checkpoint", "after step %d", after)
	return 0
}

// report is a part of trainer.Report, which rank 0 prints.
type report struct {
	Size             int     `json:"world_size"`
	Launcher         string  `json:"launcher"`
	Accuracy         float64 `json:"accuracy"`
	Steps            int     `json:"steps"`
	FirstStep        int     `json:"first_step"`
	WeightsIdentical bool    `json:"weights_identical"`
	WeightsSHA       string  `json:"weights_sha256"`
}

var (
	torchrunPrefix = regexp.MustCompile(`(?m)^\[default0\]: ?`)
	reportText     = regexp.MustCompile(`(?ms)^\{$.*?^\}$`)
)

// parsed finds the last report in what was printed.
func parsed(t *testing.T, out string) report {
	t.Helper()
	texts := reportText.FindAllString(torchrunPrefix.ReplaceAllString(out, ""), -1)
	require.NotEmpty(t, texts, "%s", out)
	var r report
	require.NoError(t, json.Unmarshal([]byte(texts[len(texts)-1]), &r), "%s", out)
	return r
}

// report is the job's.
func (j *job) report() report {
	j.t.Helper()
	var all strings.Builder
	for _, id := range j.ids {
		all.WriteString(docker(j.t, "logs", id) + "\n")
	}
	return parsed(j.t, all.String())
}

// digests of the checkpoint's files: weights, momentum and step; each rank's hook.
func digests(t *testing.T, folder string) map[string]string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(folder, "digits.ckpt*"))
	require.NoError(t, err)
	sums := map[string]string{}
	for _, file := range files {
		data, err := os.ReadFile(file)
		require.NoError(t, err)
		sum := sha256.Sum256(data)
		sums[filepath.Base(file)] = hex.EncodeToString(sum[:])
	}
	return sums
}

// reference is the same training undisturbed: as many ranks in one container.
type reference struct {
	report report
	files  map[string]string
}

var (
	referencesMu sync.Mutex
	references   = map[training]reference{}
)

func (tr training) reference(t *testing.T) reference {
	t.Helper()
	referencesMu.Lock()
	defer referencesMu.Unlock()
	if r, ok := references[tr]; ok {
		return r
	}
	folder := shared(t)
	args := append([]string{"-v", folder + ":/data", "-e", "OMP_NUM_THREADS=1", image + ":cpu"}, strings.Fields(tr.arguments())...)
	out, err := run(append(args, "-n", strconv.Itoa(tr.hosts))...)
	require.NoError(t, err, "%s", out)
	references[tr] = reference{parsed(t, out), digests(t, folder)}
	return references[tr]
}

// alike says that the job ended with the weights and states of the reference,
// bit for bit.
func (j *job) alike() {
	j.t.Helper()
	want, got := j.reference(j.t), j.report()
	require.Len(j.t, want.files, 1+j.hosts, "the weights and each rank's hook")
	files := digests(j.t, j.folder)
	for name, sum := range want.files { // a save that was cut off leaves more behind
		assert.Equal(j.t, sum, files[name], "the checkpoint's file %s", name)
	}
	assert.Equal(j.t, want.report.WeightsSHA, got.WeightsSHA)
	assert.True(j.t, got.WeightsIdentical, "on all ranks")
	assert.Equal(j.t, j.hosts, got.Size)
	assert.Equal(j.t, j.epochs*stepsAnEpoch, got.FirstStep+got.Steps, "all steps were taken")
}
