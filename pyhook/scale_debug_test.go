//go:build pyhookdebug

package pyhook

// soakScale divides numbers of calls where each is slow: here each use of a
// handle collects garbage.
const soakScale = 500
