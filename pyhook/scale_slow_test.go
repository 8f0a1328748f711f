//go:build race || pyhookdebug

package pyhook

// soakScale divides the number of calls of the soak test, where each is slow.
const soakScale = 20
