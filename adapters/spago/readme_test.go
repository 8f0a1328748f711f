package spagoddp_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"pyhook/tests/patched"
)

// TestREADME_diff: the changed trainer learns what the stock one learns. (Not to the bit: the stock
// one differs from run to run.) spago's own optimiser returns before its goroutines are done, and ends
// the stock trainer now and then where the next call's meet them: with one processor they do not.
func TestREADME_diff(t *testing.T) {
	stock, changed := patched.Run(t, "GOMAXPROCS=1")
	for _, output := range []string{stock, changed} {
		var loss float64
		_, err := fmt.Sscanf(output, "loss %f\n", &loss)
		require.NoError(t, err, output)
		assert.Less(t, loss, 0.05)
	}
}
