//go:build !race && !pyhookdebug

package pyhook

// soakScale divides the number of calls of the soak test.
const soakScale = 1
