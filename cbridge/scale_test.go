//go:build !pyhookdebug

package cbridge

// manyCalls is how often the tests that look for slow leaks and races call.
const manyCalls = 10_000
