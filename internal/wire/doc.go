// Package wire tells how many bytes this process really put on its TCP
// connections, as the kernel counts them: what a compression hook saves is
// measured there and not computed.
//
// What is counted: the payload of every open TCP socket of the process, gloo's
// message headers and torch's store included, retransmissions left out. What a
// program wrote and the kernel has yet to send counts too, so the number is
// whole as soon as a collective is done.
//
// What is not: shared memory and NVLink (NCCL inside one machine), InfiniBand,
// RDMA; and a socket that was opened and closed between two looks. A Meter
// keeps the last count of sockets that closed after it saw them.
//
// Linux 4.19 and newer. Elsewhere every function returns ErrUnsupported.
package wire
