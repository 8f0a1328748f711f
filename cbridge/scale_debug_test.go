//go:build pyhookdebug

package cbridge

// manyCalls is small where each use of a handle collects garbage.
const manyCalls = 50
