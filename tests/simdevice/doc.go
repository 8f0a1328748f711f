// Package simdevice builds and finds the simulated accelerator, "sim": a device of torch's that is
// not the CPU, for tests on machines without a GPU. It is a C++ extension in the folder device.
//
//   - Nobody but the device can touch its memory: a host's access ends the process.
//   - Its streams run in order and late, each on a thread of its own: what nobody waits for is 0.1 to
//     0.2 s late (PYHOOK_SIM_DELAY_MS, PYHOOK_SIM_SEED), and what the host waits for is not. So a
//     missing wait is a wrong number every time, and a right program loses no time.
//   - Memory that is freed becomes NaN in the order of its own stream.
//   - Work that fails on the device is raised where the host next waits for it.
//   - Streams, events, futures, torch.accelerator and autograd know it; "simccl" is its backend of
//     torch.distributed, in the order of streams, by gloo.
//   - Processes share its memory by torch.multiprocessing where PYHOOK_SIM_SHARES is set. With the
//     folder autoload on sys.path, import torch loads it, as it does any installed backend: so a
//     worker has it.
//   - All operations of the CPU are there (device/operations.cpp).
//
// It wants a torch as new as device/build.py says: that of PYHOOK_SIM_PYTHON, which is an error if
// it will not do, or that of PYHOOK_PYTHON, where tests are skipped if it is older. scripts/test.sh's
// check simdevice, of make test and so of CI, makes pip's newest torch for them, and says in the
// summary where that cannot be had.
package simdevice
