package main

import (
	"github.com/spf13/cobra"

	"pyhook/internal/cli/check"
	"pyhook/internal/cli/compare"
	"pyhook/internal/cli/doctor"
	"pyhook/internal/cli/replay"
)

// helpTopics are pages of `pyhook help`, not commands.
func helpTopics() []*cobra.Command {
	return []*cobra.Command{
		{Use: "exit-codes", Short: "How the commands end", Long: exitCodesText},
		{Use: "json", Short: "What --json prints", Long: jsonText},
	}
}

const exitCodesText = `Exit codes:

    0  done: the hook keeps the contract, the machine is ready, training ended
    1  what was checked failed: the hook is broken or cannot be loaded, doctor
       found a problem, training failed
    2  the command line, or the launcher's environment, cannot be understood;
       nothing was started
    3  there is no Python that pyhook can use, or it has no torch
    4  a rank died: it crashed, was killed, or left without a report
  130  stopped by SIGINT (Ctrl-C)
  143  stopped by SIGTERM

Warnings of doctor do not change the code. A second SIGINT or SIGTERM, half a
second or more after the first, ends the command at once, without waiting for
the ranks.`

const jsonText = `With --json a command prints one JSON object on standard output, also when it
fails for a reason that the object states; everything else goes to standard error.
Fields are added over time, and not renamed.

` + check.JSONHelp + compare.JSONHelp + doctor.JSONHelp + replay.JSONHelp + `pyhook version --json
  version, commit, go, os, arch`
