// Package mixed_test has a rank of Go and a rank of plain Python in one job.
//
// The Python rank knows nothing of pyhook: it calls torch's own init_process_group and
// its C++ Reducer calls the hook. The Go rank calls the same hook by pyhook. Both meet by
// MASTER_ADDR and MASTER_PORT with nothing else set.
package mixed_test
