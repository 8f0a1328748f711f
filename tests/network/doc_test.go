// Package network_test runs ranks on networks that fail.
//
// Each rank is a process in a network namespace of its own. Its one interface but
// loopback is a TUN device, whose other end is here: a goroutine carries the packets,
// late, slowly or not at all. Nothing is left behind: a namespace and its device go
// with their process, and that goes with the test.
//
// That takes root. Without it the tests are skipped, but under CI they fail.
package network_test
