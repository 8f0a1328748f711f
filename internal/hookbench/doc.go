// Package hookbench times one hook call from Go beside the same call by torch's
// own c10d::PythonCommHook in C++ and by Python itself, in one process and in
// turns. It is `pyhook bench`, and `make bench` for the project's own figures.
//
// peer/ holds the C++ side, an extension that is built for the torch at hand,
// and the Python side.
package hookbench
