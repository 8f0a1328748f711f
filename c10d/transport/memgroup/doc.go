// Package memgroup is a process group whose ranks are goroutines of one
// process: for tests, and for trying out on one machine what many ranks would
// compute.
//
//	groups := memgroup.New(4)
//	for _, g := range groups {
//		go train(g) // g is a c10d.ProcessGroup, for ddp with Go hooks
//	}
//
// It starts no Python. A process has one torch.distributed default group, so at
// most one rank of a process can run Python hooks: for those, start a process a
// rank (launch.Spawn) over torch.distributed or a transport of your own.
//
// It is not for training across processes or machines, and not fast: every
// collective is the one that pyhook derives from Send and Recv. It therefore
// checks the ranks against each other (*transport.MismatchError).
package memgroup
