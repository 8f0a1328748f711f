//go:build unix

package launch

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// The tests start this binary again in a role, so that ranks are real
// processes.
const (
	roleVariable = "LAUNCH_TEST_ROLE"
	pathVariable = "LAUNCH_TEST_PATH" // a file or folder that the role is about
)

var roles = map[string]func() int{
	"print":       rolePrint,
	"exit-3":      roleExit3,
	"killed":      roleKilled,
	"sleep":       roleSleep,
	"stubborn":    roleStubborn,
	"blame":       roleBlame,
	"plain-blame": rolePlainBlame,
	"orderly":     roleOrderly,
	"leave-child": roleLeaveChild,
	"launcher":    roleLauncher,
}

func TestMain(m *testing.M) {
	if role, ok := roles[os.Getenv(roleVariable)]; ok {
		os.Exit(role())
	}
	os.Exit(m.Run())
}

// self is this binary's path and the environment that gives it a role. The race
// detector sleeps for a second in each process that exits, which the tests of
// exits cannot afford.
func self(role, path string) (command, env []string) {
	exe, err := os.Executable()
	if err != nil {
		panic(err)
	}
	return []string{exe}, append(os.Environ(), roleVariable+"="+role, pathVariable+"="+path, "GORACE=atexit_sleep_ms=0")
}

func rank() string { return os.Getenv("RANK") }

// hang is bounded, so that a broken test leaves nothing for long.
func hang() int {
	time.Sleep(30 * time.Second)
	return 9
}

// arrive marks this rank as ready; waitFor waits for another rank's mark.
func arrive() { must(os.WriteFile(filepath.Join(os.Getenv(pathVariable), "at-"+rank()), nil, 0o644)) }

func waitFor(rank string) {
	for {
		if _, err := os.Stat(filepath.Join(os.Getenv(pathVariable), "at-"+rank)); err == nil {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// holdFIFO writes "ready" to the test, which reads the end of the file when every
// holder is dead.
func holdFIFO() {
	f, err := os.OpenFile(os.Getenv(pathVariable), os.O_WRONLY, 0)
	must(err)
	_, err = f.WriteString("ready\n")
	must(err)
	held = append(held, f)
}

// held keeps the files from the garbage collector, which would close them.
var held []*os.File

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(99)
	}
}

func rolePrint() int {
	w, err := Detect(Options{})
	must(err)
	fmt.Println(w)
	fmt.Println("OMP_NUM_THREADS=" + os.Getenv("OMP_NUM_THREADS"))
	fmt.Println("TORCHELASTIC_USE_AGENT_STORE=" + os.Getenv("TORCHELASTIC_USE_AGENT_STORE"))
	fmt.Fprint(os.Stderr, "no newline at the end")
	return 0
}

func roleExit3() int {
	if rank() != "1" {
		return hang()
	}
	fmt.Println("out of cheese")
	return 3
}

func roleKilled() int {
	if rank() != "1" {
		return hang()
	}
	must(syscall.Kill(os.Getpid(), syscall.SIGKILL))
	return hang()
}

func roleSleep() int {
	holdFIFO()
	return hang()
}

func roleStubborn() int {
	signal.Ignore(syscall.SIGTERM)
	holdFIFO()
	return hang()
}

// roleBlame: rank 0 is seen to fail first, but rank 1's error is older.
func roleBlame() int {
	if rank() == "0" {
		waitFor("1")
		return failAt(errors.New("connection reset by peer"), time.Unix(2000, 0))
	}
	ctx, stop := WithSIGTERM(context.Background())
	defer stop()
	arrive()
	<-ctx.Done()
	return failAt(fmt.Errorf("step 7: %w", pythonError{}), time.Unix(1000, 0))
}

func failAt(err error, at time.Time) int {
	must(WriteErrorFile(err, at))
	return exitCode(err)
}

func rolePlainBlame() int {
	must(os.WriteFile(os.Getenv(errorFileVariable), []byte(`{"message":"just text","timestamp":1690000000}`), 0o644))
	return 4
}

func roleOrderly() int {
	ctx, stop := WithSIGTERM(context.Background())
	defer stop()
	holdFIFO()
	<-ctx.Done()
	return Fail(context.Cause(ctx))
}

// roleLeaveChild ends at once and leaves a process behind.
func roleLeaveChild() int {
	command, env := self("stubborn", os.Getenv(pathVariable))
	child := exec.Command(command[0])
	child.Env = env
	child.Stdout, child.Stderr = os.Stdout, os.Stderr
	out, err := os.OpenFile(os.Getenv(pathVariable), os.O_WRONLY, 0)
	must(err)
	child.ExtraFiles = []*os.File{out}
	must(child.Start())
	return 0
}

func roleLauncher() int {
	command, env := self("stubborn", os.Getenv(pathVariable))
	fmt.Println(Spawn(context.Background(), SpawnConfig{Command: command, Env: env, N: 2}))
	return 1
}
