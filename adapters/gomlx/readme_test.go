package gomlxddp_test

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"pyhook/tests/patched"
)

// TestREADME_diff: the changed trainer, alone, ends with the weights of the stock one, bit for bit.
func TestREADME_diff(t *testing.T) {
	stock, changed := patched.Run(t)
	assert.Regexp(t, `^loss [0-9.e-]+, weights \[`, stock)
	assert.Equal(t, stock, changed)
}
