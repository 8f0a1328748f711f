// Package verbose formats errors that have more to show than their text.
package verbose

import (
	"fmt"
	"strings"
)

// Format writes an error for its method Format. The verb %+v adds details below the text, each
// with its title; details without a text are left out. All other verbs are those of the text.
func Format(s fmt.State, verb rune, text string, details ...Detail) {
	if verb != 'v' || !s.Flag('+') {
		fmt.Fprintf(s, fmt.FormatString(s, verb), text)
		return
	}
	fmt.Fprint(s, text)
	for _, d := range details {
		if d.Text = strings.TrimRight(d.Text, "\n"); d.Text != "" {
			fmt.Fprintf(s, "\n%s\n%s", d.Title, d.Text)
		}
	}
}

// Detail is what %+v adds.
type Detail struct{ Title, Text string }
