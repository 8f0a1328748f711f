#include "memory.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct pyh_owner {
  _Atomic int64_t refs;
  void *memory;
  void (*free)(void *);   // NULL: the Go function of this cgo.Handle releases the memory
  uintptr_t handle;
  struct pyh_owner *next; // in the list of the released
};

static _Atomic int64_t alive;
static _Atomic(pyh_owner *) released;
static _Atomic int notify_fd = -1;

int64_t pyh_owners(void) { return atomic_load(&alive); }
void pyh_owner_notify(int fd) { atomic_store(&notify_fd, fd); }

pyh_owner *pyh_owner_of(void *memory, void (*free)(void *)) {
  pyh_owner *o = calloc(1, sizeof *o);
  if (o == NULL) {
    return NULL;
  }
  atomic_init(&o->refs, 1);
  o->memory = memory;
  o->free = free;
  atomic_fetch_add(&alive, 1);
  return o;
}

pyh_owner *pyh_owner_alloc(size_t bytes, size_t align, void **base) {
  // aligned_alloc wants a multiple of the alignment.
  size_t rounded = (bytes + align - 1) / align * align;
  *base = aligned_alloc(align, rounded == 0 ? align : rounded);
  if (*base == NULL) {
    return NULL;
  }
  memset(*base, 0, rounded);
  pyh_owner *o = pyh_owner_of(*base, free);
  if (o == NULL) {
    free(*base);
  }
  return o;
}

pyh_owner *pyh_owner_foreign(uintptr_t handle) {
  pyh_owner *o = pyh_owner_of(NULL, NULL);
  if (o != NULL) {
    o->handle = handle;
  }
  return o;
}

void pyh_owner_retain(void *owner) {
  pyh_owner *o = owner;
  atomic_fetch_add(&o->refs, 1);
}

static void push_released(pyh_owner *o) {
  o->next = atomic_load(&released);
  while (!atomic_compare_exchange_weak(&released, &o->next, o)) {
  }
  int fd = atomic_load(&notify_fd);
  if (fd >= 0) {
    // A full pipe has waked the reader already.
    ssize_t ignored = write(fd, "", 1);
    (void)ignored;
  }
}

void pyh_owner_release(void *owner) {
  pyh_owner *o = owner;
  if (atomic_fetch_sub(&o->refs, 1) > 1) {
    return;
  }
  if (o->free == NULL) {
    push_released(o); // pyh_owner_next_released frees it
    return;
  }
  o->free(o->memory);
  free(o);
  atomic_fetch_sub(&alive, 1);
}

// There is one reader, Go's reaper goroutine: taking one node off the stack is safe.
uintptr_t pyh_owner_next_released(void) {
  pyh_owner *o = atomic_load(&released);
  while (o != NULL && !atomic_compare_exchange_weak(&released, &o, o->next)) {
  }
  if (o == NULL) {
    return 0;
  }
  uintptr_t handle = o->handle;
  free(o);
  atomic_fetch_sub(&alive, 1);
  return handle;
}

void *pyh_owner_retain_address(void) { return (void *)pyh_owner_retain; }
void *pyh_owner_release_address(void) { return (void *)pyh_owner_release; }
