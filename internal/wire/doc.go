// Package wire measures how many bytes this process put on its TCP connections,
// as the kernel counts them: so the saving of a compression hook is measured and
// not computed.
//
// It counts the payload of every open TCP socket of the process, with gloo's
// message headers and torch's store, without retransmissions. It includes bytes
// that the program wrote and the kernel has yet to send, so the number is
// complete as soon as a collective is done.
//
// It does not count shared memory and NVLink (NCCL inside one machine),
// InfiniBand and RDMA, nor a socket that was opened and closed between two
// measurements. A Meter keeps the last count of sockets that closed later.
//
// Linux 4.19 and newer. Elsewhere every function returns ErrUnsupported.
package wire
