package check

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/internal/cli"
	"pyhook/internal/cli/clitest"
	"pyhook/internal/testutil"
	"pyhook/launch"
)

// shared is checked, by two ranks that check one hook after another: starting torch takes longer than
// most checks do. It is for checks that come to a verdict, and hooks that cannot be loaded.
func shared(t *testing.T, want int, args ...string) *checkReport {
	t.Helper()
	clitest.NeedTorch(t)
	var stdout bytes.Buffer
	cmd := newCommand(func(cmd *cobra.Command, f *checkFlags) error {
		require.Len(t, sharedRanks, f.ranks)
		return finishCheck(cmd, f, aggregate(&f.plan, runShared(t, &f.plan)))
	})
	cmd.SetOut(&stdout)
	cmd.SetArgs(append([]string{"--json"}, args...))
	cmd.SilenceUsage, cmd.SilenceErrors = true, true
	code := cli.ExitOK
	if err := cmd.ExecuteContext(t.Context()); err != nil {
		var exit *cli.ExitError
		require.ErrorAs(t, err, &exit)
		code = exit.Code
	}
	require.Equal(t, want, code, "%s", stdout.String())
	report := clitest.Parse[checkReport](t, stdout.String())
	assert.Equal(t, want == cli.ExitOK, report.OK)
	return &report
}

// sharedRanks are the processes of runShared. They end with this one, whose ends of their pipes close.
var sharedRanks [2]sharedRank

type sharedRank struct {
	plans   io.WriteCloser // nil: not started
	reports *json.Decoder
}

// runShared has all ranks do the same check.
func runShared(t *testing.T, plan *checkPlan) []*rankReport {
	t.Helper()
	if sharedRanks[0].plans == nil {
		port := testutil.FreePort(t)
		for rank := range sharedRanks {
			sharedRanks[rank] = startSharedRank(t, rank, port)
		}
	}
	text, err := json.Marshal(plan)
	require.NoError(t, err)
	for rank := range sharedRanks {
		_, err := sharedRanks[rank].plans.Write(append(text, '\n'))
		require.NoError(t, err)
	}
	reports := make([]*rankReport, len(sharedRanks))
	for rank := range sharedRanks {
		require.NoError(t, sharedRanks[rank].reports.Decode(&reports[rank]), "rank %d", rank)
	}
	for _, report := range reports {
		require.True(t, leavesGroup(report), "for checked: %+v", report.failure())
	}
	return reports
}

// sharedRankVariable makes the test binary one of sharedRanks.
const sharedRankVariable = "PYHOOK_TEST_SHARED_RANK"

func startSharedRank(t *testing.T, rank int, port string) sharedRank {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	reports, theirs, err := os.Pipe()
	require.NoError(t, err)
	defer theirs.Close()
	cmd := exec.Command(self)
	cmd.Dir = clitest.Testdata()
	cmd.Env = append(cli.QuietEnvironment(clitest.CleanEnvironment()), sharedRankVariable+"="+port, "OMP_NUM_THREADS=1",
		"RANK="+strconv.Itoa(rank), "WORLD_SIZE="+strconv.Itoa(len(sharedRanks)), "MASTER_ADDR=127.0.0.1", "MASTER_PORT="+port)
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = os.Stderr, os.Stderr, []*os.File{theirs}
	plans, err := cmd.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	return sharedRank{plans, json.NewDecoder(reports)}
}

// beSharedRank checks the plans of stdin until that ends.
func beSharedRank() error {
	syscall.CloseOnExec(3)
	reports := json.NewEncoder(os.NewFile(3, "reports"))
	world, err := launch.Detect(launch.Options{})
	if err != nil {
		return err
	}
	var last *rankRun
	for plans := json.NewDecoder(os.Stdin); ; {
		var plan checkPlan
		if err := plans.Decode(&plan); errors.Is(err, io.EOF) {
			return last.close()
		} else if err != nil {
			return err
		}
		run := newRankRun(&plan, world.Rank, world.Size)
		if last != nil {
			run.rt, run.group = last.rt, last.group
			run.report.Python, run.report.Torch, run.report.Backend = last.report.Python, last.report.Torch, last.report.Backend
		}
		report := run.supervise(context.Background(), "")
		if err := reports.Encode(report); err != nil {
			return err
		}
		if !leavesGroup(report) {
			return errors.New(report.failure().Message)
		}
		run.drop()
		run.closes, run.random, last = nil, randomStates{}, run
	}
}

// leavesGroup: the next check can use the group. A hook that failed may have left a collective in it.
func leavesGroup(r *rankReport) bool { return r.failure() == nil || r.failure().Code == "load" }

func TestMain(m *testing.M) {
	if os.Getenv(sharedRankVariable) == "" {
		clitest.Main(m)
	}
	if err := beSharedRank(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}
