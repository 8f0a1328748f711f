package network_test

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"pyhook/internal/testutil"
	"pyhook/launch"
)

const (
	rankVariable = "PYHOOK_NETWORK_RANK"
	// timeout is the groups'; limit is what the project promises.
	timeout = 5 * time.Second
	limit   = timeout + 2*time.Second
)

func TestMain(m *testing.M) {
	if text := os.Getenv(rankVariable); text != "" {
		err := serve(text)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(launch.Fail(err))
	}
	// What the tests do most is wait.
	if err := flag.Set("test.parallel", "5"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("CI") != "" {
		t.Fatal("network namespaces take root, which CI has to give: these tests may not be left out there")
	}
	t.Skip("SKIPPED, not tested: network namespaces take root")
}

// rankConfig is what a rank's process is started with.
type rankConfig struct {
	Machine    int // whose address it has; a rank's own, mostly
	Rank, Size int
	Addr       string
	Port       int
	Timeout    time.Duration
	Hook       string
	Name       string // of the host, which is 127.0.1.1 in its /etc/hosts; empty: not changed
}

// rank is a rank's process, seen from the test.
type rank struct {
	t     *testing.T
	cmd   *exec.Cmd
	talk  *net.UnixConn
	read  *json.Decoder
	said  testutil.Output
	ended chan struct{}
}

// answer is what a rank says to a command.
type answer struct {
	OK     bool
	Err    string
	Kinds  []string
	Hook   string
	Rank   int
	Bucket int
	Hint   string
	Took   time.Duration
	Sum    bool   // the result is right
	Torch  string // its version
}

// startRank starts a process on a machine of its own.
func startRank(t *testing.T, w *wire, at rankConfig, env ...string) *rank {
	t.Helper()
	text, err := json.Marshal(at)
	require.NoError(t, err)
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	theirs, mine := os.NewFile(uintptr(pair[0]), "theirs"), os.NewFile(uintptr(pair[1]), "mine")
	defer theirs.Close()
	defer mine.Close()
	conn, err := net.FileConn(mine)
	require.NoError(t, err)
	hooks, err := filepath.Abs("testdata")
	require.NoError(t, err)
	r := &rank{t: t, talk: conn.(*net.UnixConn), read: json.NewDecoder(conn), ended: make(chan struct{})}
	r.cmd = exec.Command(os.Args[0])
	r.cmd.Env = append(os.Environ(), append([]string{rankVariable + "=" + string(text),
		"OMP_NUM_THREADS=1", "PYTHONPATH=" + hooks, "RANK=" + strconv.Itoa(at.Rank), "TORCH_CPP_LOG_LEVEL=ERROR"}, env...)...)
	flags := uintptr(syscall.CLONE_NEWNET)
	if at.Name == "" {
		r.cmd.Env = append(r.cmd.Env, "GLOO_SOCKET_IFNAME="+device)
	} else {
		flags |= syscall.CLONE_NEWNS | syscall.CLONE_NEWUTS
		r.cmd.Env = slices.DeleteFunc(r.cmd.Env, func(kv string) bool { return strings.HasPrefix(kv, "GLOO_SOCKET_IFNAME=") })
	}
	r.cmd.ExtraFiles = []*os.File{theirs}
	r.cmd.Stdout, r.cmd.Stderr = &r.said, &r.said
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags, Pdeathsig: syscall.SIGKILL}
	started := make(chan error, 1)
	go r.live(started)
	require.NoError(t, <-started)
	t.Cleanup(func() {
		_ = r.cmd.Process.Kill()
		<-r.ended
		conn.Close()
		if t.Failed() {
			t.Logf("rank %d said:\n%s", at.Rank, r.said.String())
		}
	})
	tun, err := receive(r.talk)
	require.NoError(t, err, "the rank's network")
	w.attach(at.Machine, tun)
	return r
}

// live starts the process and waits for it on one thread: its end would be the
// process's (PR_SET_PDEATHSIG).
func (r *rank) live(started chan<- error) {
	defer close(r.ended)
	unlock := lockThread()
	defer unlock()
	err := r.cmd.Start()
	started <- err
	if err == nil {
		_ = r.cmd.Wait()
	}
}

// send sends a command; hear reads the answer.
func (r *rank) send(command string) {
	r.t.Helper()
	_, err := fmt.Fprintf(r.talk, "%q\n", command)
	require.NoError(r.t, err)
}

// hear waits for the answer to a command.
func (r *rank) hear(within time.Duration) (answer, error) {
	if err := r.talk.SetReadDeadline(time.Now().Add(within)); err != nil {
		return answer{}, err
	}
	var a answer
	err := r.read.Decode(&a)
	return a, err
}

func (r *rank) must(command string) answer {
	r.t.Helper()
	r.send(command)
	a, err := r.hear(3 * time.Minute) // torch's import, on a busy machine
	require.NoError(r.t, err, "%s: %s", command, r.said.String())
	return a
}

// receive gets a descriptor from a rank.
func receive(conn *net.UnixConn) (int, error) {
	data, control := make([]byte, 1), make([]byte, unix.CmsgSpace(4))
	if err := conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		return 0, err
	}
	_, n, _, _, err := conn.ReadMsgUnix(data, control)
	if err != nil {
		return 0, err
	}
	messages, err := unix.ParseSocketControlMessage(control[:n])
	if err != nil {
		return 0, err
	}
	if len(messages) != 1 {
		return 0, errors.New("no device came: the rank could not make it")
	}
	rights, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return 0, err
	}
	unix.CloseOnExec(rights[0])
	return rights[0], nil
}
