package job

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"pyhook/launch"
)

// exitInterrupted is 128+SIGINT, as shells number it.
const exitInterrupted = 128 + int(syscall.SIGINT)

// Spawn starts n ranks of this program on this machine, with its arguments, waits for them, and ends
// this process with their exit code: if n is 2 or more and no launcher started this process. Else it
// returns. Main does it with Config.Ranks; a program that calls Join calls Spawn first in main. What
// the ranks print is passed on as it is. SIGTERM and Ctrl-C stop the ranks; they die with this
// process.
func Spawn(n int) {
	if n < 2 {
		return
	}
	// A family that is incomplete is an error of Join's, in this process.
	if world, err := launch.Detect(launch.Options{}); err != nil || world.Source != launch.SourceSingle {
		return
	}
	os.Exit(spawn(n))
}

func spawn(n int) (code int) {
	ctx, stop := launch.WithSIGTERM(context.Background())
	defer stop()
	interrupted, uninstall := signal.NotifyContext(ctx, os.Interrupt)
	defer uninstall()
	self, err := os.Executable()
	if err == nil {
		err = launch.Spawn(interrupted, launch.SpawnConfig{Command: append([]string{self}, os.Args[1:]...), N: n, Show: launch.ShowPlain})
	}
	if err == nil {
		return 0
	}
	var rank *launch.RankError
	switch {
	case errors.As(err, &rank) && rank.Message != "": // it has printed its error
		fmt.Fprintf(os.Stderr, "%s: rank %d failed first, with exit code %d: its error is above\n", program(), rank.Rank, rank.ExitCode)
	default:
		fmt.Fprintf(os.Stderr, "%s: %v\n", program(), err)
	}
	if interrupted.Err() != nil && ctx.Err() == nil {
		return exitInterrupted
	}
	return launch.Fail(err)
}
