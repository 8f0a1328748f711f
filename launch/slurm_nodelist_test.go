package launch

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestReader_firstNode(t *testing.T) {
	first := func(list string) (string, *Error) {
		r := &reader{environment: environment{vars{"SLURM_JOB_NODELIST": list}.getenv}}
		return r.firstNode(), r.err
	}
	for list, want := range map[string]string{
		"n1": "n1", "n1,m2": "n1", "n[001-004,7],m2": "n001", "n[9-11]": "n9", "r[1-2]n[1-3]": "r1n1", "[1-2]": "1",
		"rack-[1,3]-ib.example.org": "rack-1-ib.example.org", "n[0000-9223372036854775807]m[0-9],x": "n0000m0",
	} {
		t.Run(list, func(t *testing.T) {
			host, err := first(list)
			require.Nil(t, err)
			assert.Equal(t, want, host)
		})
	}
	for _, list := range []string{",a", "n[", "n]", "n[[1]]", "n[]", "n[1-]", "n[a-b]", "n 1", "n[-1]", "n[1-0x9]", "n[1,]", "n[1-2"} {
		t.Run("refused: "+list, func(t *testing.T) {
			_, err := first(list)
			require.NotNil(t, err)
			assert.Equal(t, "SLURM_JOB_NODELIST", err.Variable)
		})
	}
}
