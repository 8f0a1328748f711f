package launch

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestParseNodelist(t *testing.T) {
	for _, test := range []struct {
		list string
		want []string
	}{
		{"n1", []string{"n1"}},
		{"n1,m2", []string{"n1", "m2"}},
		{"n[001-004,7],m2", []string{"n001", "n002", "n003", "n004", "n7", "m2"}},
		{"n[9-11]", []string{"n9", "n10", "n11"}},
		{"n[098-101]", []string{"n098", "n099", "n100", "n101"}},
		{"r[1-2]n[1-3]", []string{"r1n1", "r1n2", "r1n3", "r2n1", "r2n2", "r2n3"}},
		{"rack-[1,3]-ib.example.org", []string{"rack-1-ib.example.org", "rack-3-ib.example.org"}},
		{"[1-2]", []string{"1", "2"}},
	} {
		t.Run(test.list, func(t *testing.T) {
			list, err := parseNodelist(test.list)
			require.NoError(t, err)
			assert.Equal(t, test.want, slices.Collect(list.all()))
			assert.Equal(t, test.want[0], list.first())
			assert.Equal(t, len(test.want), list.count())
		})
	}
}

func TestParseNodelist_refused(t *testing.T) {
	for list, reason := range map[string]string{
		"":                          "empty host name",
		"a,":                        "empty host name",
		",a":                        "empty host name",
		"n[":                        "does not close",
		"n]":                        "did not open",
		"n[[1]]":                    "inside a bracket",
		"n[]":                       `"" where a number`,
		"n[1-]":                     `"" where a number`,
		"n[a-b]":                    `"a" where a number`,
		"n[1-2-3]":                  `"2-3" where a number`,
		"n[3-1]":                    "backwards",
		"n 1":                       "space",
		"n[-1]":                     `"" where a number`,
		"n[1-0x9]":                  "where a number",
		"n[1-99999999999999999999]": "where a number",
	} {
		t.Run(reason+" in "+list, func(t *testing.T) {
			_, err := parseNodelist(list)
			assert.ErrorContains(t, err, reason)
		})
	}
}

func TestNodelist_first(t *testing.T) {
	t.Run("a huge list is not unfolded", func(t *testing.T) {
		list, err := parseNodelist("n[0000-9223372036854775807]m[0-9223372036854775807],x")
		require.NoError(t, err)
		assert.Equal(t, "n0000m0", list.first())
		assert.Equal(t, 1<<31-1, list.count())
	})
}
