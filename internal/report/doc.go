// Package report is how the commands speak: marks, aligned tables, JSON, and
// errors with their hints. Colours and progress appear on a terminal only;
// NO_COLOR and TERM=dumb turn colours off (https://no-color.org).
//
// It knows text, and nothing of hooks.
package report
