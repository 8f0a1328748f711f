// Package cmem runs the C part of pyhook by itself, without Go: a C program
// (testdata) that calls every function of cbridge's, tensorconv's and tensor's C
// files against a real libpython. It is built and run as it is by go test, with
// the address and undefined-behaviour sanitizers too; and with PYHOOK_VALGRIND=1
// under valgrind's memcheck: no errors, and nothing definitely lost.
package cmem
