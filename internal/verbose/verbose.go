// Package verbose formats errors that have details beside their text.
package verbose

import (
	"fmt"
	"strings"
)

// Format implements fmt.Formatter for an error. The verb %+v adds the details below the text,
// each with its title, and omits details without a text. Other verbs format the text.
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

// Detail is a part that %+v adds.
type Detail struct{ Title, Text string }
