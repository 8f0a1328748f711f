// Package transport_test runs Python hooks on two real ranks over a transport
// written in Go, and compares what comes out with gloo's.
package transport_test
