package trainer

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestConfig_Check_invalidNumbers(t *testing.T) {
	for says, change := range map[string]func(*Config){
		"--lr NaN":             func(c *Config) { c.LR = math.NaN() },
		"--lr +Inf":            func(c *Config) { c.LR = math.Inf(1) },
		"--lr 0":               func(c *Config) { c.LR = 0 },
		"--momentum NaN":       func(c *Config) { c.Momentum = math.NaN() },
		"--timeout -1ns":       func(c *Config) { c.Timeout = -1 },
		"--momentum 1":         func(c *Config) { c.Momentum = 1 },
		"--bucket-cap-mb NaN":  func(c *Config) { c.BucketCapMB = math.NaN() },
		"--bucket-cap-mb +Inf": func(c *Config) { c.BucketCapMB = math.Inf(1) },
	} {
		c := Defaults()
		require.NoError(t, c.Check(2))
		change(&c)
		require.ErrorContains(t, c.Check(2), says)
	}
}
