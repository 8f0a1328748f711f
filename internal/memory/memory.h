// Who owns a tensor's memory.
#ifndef PYHOOK_MEMORY_H
#define PYHOOK_MEMORY_H

#include <stddef.h>
#include <stdint.h>

// pyh_owner owns memory that tensors share: counted, and released with the last reference, on
// whatever thread that is, attached to Python or not.
typedef struct pyh_owner pyh_owner;

// Memory that is zeroed; *base is its address. NULL: out of memory.
pyh_owner *pyh_owner_alloc(size_t bytes, size_t align, void **base);
// Memory of someone else, which free(memory) releases, on the thread of the last reference.
pyh_owner *pyh_owner_of(void *memory, void (*free)(void *));
// Memory of someone else, which the Go function of this cgo.Handle releases.
pyh_owner *pyh_owner_foreign(uintptr_t handle);

void pyh_owner_retain(void *owner);
void pyh_owner_release(void *owner);
int64_t pyh_owners(void); // alive in the process

// Returns the handle of one released foreign owner at each call; 0: there is no more.
uintptr_t pyh_owner_next_released(void);
// Has a byte written to fd for each of them.
void pyh_owner_notify(int fd);

// The addresses of two functions, for C code of other packages.
void *pyh_owner_retain_address(void);
void *pyh_owner_release_address(void);

#endif
