// Package report prints what the commands and benchmarks write for people: tables,
// progress, colours, JSON, and errors with their hints. Colours and progress appear
// on a terminal only; NO_COLOR and TERM=dumb turn colours off (https://no-color.org).
//
// Tables are laid out by text/tabwriter, progress is a schollz/progressbar: nothing
// else in the repository prints either. The package does not know of hooks.
package report
