//go:build race

package transport_test

// raceDetector keeps memory of every goroutine that ever was (about 300 bytes),
// so that under it the process's size says nothing.
const raceDetector = true
