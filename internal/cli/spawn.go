package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"pyhook/launch"
)

// stopGrace is how long ranks may take to say where they were.
const stopGrace = 5 * time.Second

// SpawnSelf runs a hidden subcommand on n ranks. What they print goes to out.
func SpawnSelf(ctx context.Context, n int, out io.Writer, args ...string) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding this program: %w", err)
	}
	defer WaitingFor("the ranks to end, at most %s (%s)", stopGrace, InC)()
	return launch.Spawn(ctx, launch.SpawnConfig{
		Command: append([]string{self}, args...), N: n, Env: QuietEnvironment(os.Environ()),
		GracePeriod: stopGrace, Stdout: out, Stderr: out,
	})
}

// QuietEnvironment keeps what drowns a report: torch's own log, and Go's dump
// of all goroutines where C code crashes.
func QuietEnvironment(env []string) []string {
	return Quiet(env, "TORCH_CPP_LOG_LEVEL=ERROR", "GOTRACEBACK=none")
}

// Quiet adds settings, NAME=value, to an environment where the user has not chosen.
func Quiet(env []string, settings ...string) []string {
	for _, setting := range settings {
		name, _, _ := strings.Cut(setting, "=")
		if _, set := os.LookupEnv(name); !set {
			env = append(env, setting)
		}
	}
	return env
}
