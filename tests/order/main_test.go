// Package order_test runs hooks that issue collectives in callbacks, on real
// gloo ranks, where stock DDP hangs or aborts: many buckets, random delays,
// and the same bits as one bucket after the other.
package order_test

import (
	"testing"

	"pyhook/tests/ranks"
)

func TestMain(m *testing.M) {
	ranks.Main(m, map[string]ranks.Func{"train": train})
}
