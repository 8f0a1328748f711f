//go:build !race && !pyhookdebug

package pyhook

// soakScale divides numbers of calls where each is slow.
const soakScale = 1
