package main

import (
	"runtime"
	"runtime/debug"
	"strconv"

	"github.com/spf13/cobra"

	"pyhook/internal/report"
)

// version and commit are stamped by the build: -ldflags "-X main.version=v1.2.3".
// Without the stamp the commit is Go's own, if it put one in.
var (
	version = "dev"
	commit  = ""
)

type versionReport struct {
	Version string `json:"version"`
	Commit  string `json:"commit,omitempty"`
	Go      string `json:"go"`
	OS      string `json:"os"`
	Arch    string `json:"arch"`
}

func newVersionCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := currentVersion()
			if asJSON {
				return report.JSON(cmd.OutOrStdout(), v)
			}
			p := report.New(cmd.OutOrStdout())
			p.Printf("pyhook %s", v.Version)
			if v.Commit != "" {
				p.Printf(" (%.12s)", v.Commit)
			}
			p.Printf(" %s %s/%s\n", v.Go, v.OS, v.Arch)
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

func currentVersion() versionReport {
	v := versionReport{Version: version, Commit: commit, Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH}
	if info, ok := debug.ReadBuildInfo(); ok && commit == "" {
		for _, setting := range info.Settings {
			if setting.Key == "vcs.revision" {
				v.Commit = setting.Value
			}
		}
	}
	return v
}

func quoted(s string) string { return strconv.Quote(s) }
