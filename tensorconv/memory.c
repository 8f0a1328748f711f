#include "memory.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static _Atomic int64_t alive;
static _Atomic(pyh_owner *) released;
static _Atomic int notify_fd = -1;

int64_t pyh_owners(void) { return atomic_load(&alive); }
void pyh_owner_notify(int fd) { atomic_store(&notify_fd, fd); }

static pyh_owner *make(int kind) {
  pyh_owner *o = calloc(1, sizeof *o);
  if (o == NULL) {
    return NULL;
  }
  atomic_init(&o->refs, 1);
  o->kind = kind;
  atomic_fetch_add(&alive, 1);
  return o;
}

pyh_owner *pyh_owner_alloc(size_t bytes, size_t align) {
  pyh_owner *o = make(PYH_OWN_MALLOC);
  if (o == NULL) {
    return NULL;
  }
  // aligned_alloc wants a multiple of the alignment.
  size_t rounded = (bytes + align - 1) / align * align;
  o->base = aligned_alloc(align, rounded == 0 ? align : rounded);
  if (o->base == NULL) {
    free(o);
    atomic_fetch_sub(&alive, 1);
    return NULL;
  }
  memset(o->base, 0, rounded);
  return o;
}

pyh_owner *pyh_owner_foreign(uintptr_t id) {
  pyh_owner *o = make(PYH_OWN_FOREIGN);
  if (o != NULL) {
    o->id = id;
  }
  return o;
}

void pyh_owner_retain(pyh_owner *o) { atomic_fetch_add(&o->refs, 1); }

static void delete_legacy(void *m) {
  DLManagedTensor *managed = m;
  if (managed->deleter != NULL) {
    managed->deleter(managed);
  }
}

static void delete_versioned(void *m) {
  DLManagedTensorVersioned *managed = m;
  if (managed->deleter != NULL) {
    managed->deleter(managed);
  }
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

void pyh_owner_release(pyh_owner *o) {
  if (atomic_fetch_sub(&o->refs, 1) > 1) {
    return;
  }
  switch (o->kind) {
  case PYH_OWN_MALLOC:
    free(o->base);
    break;
  case PYH_OWN_FOREIGN:
    push_released(o); // freed by pyh_owner_next_released
    return;
  // Producers' deleters may need the GIL (numpy's do), and this thread may not
  // have it.
  case PYH_OWN_LEGACY:
    o->py->defer_call(delete_legacy, o->base);
    break;
  case PYH_OWN_VERSIONED:
    o->py->defer_call(delete_versioned, o->base);
    break;
  }
  free(o);
  atomic_fetch_sub(&alive, 1);
}

// One reader (Go's reaper goroutine): taking one node off the stack is safe.
uintptr_t pyh_owner_next_released(void) {
  pyh_owner *o = atomic_load(&released);
  while (o != NULL && !atomic_compare_exchange_weak(&released, &o, o->next)) {
  }
  if (o == NULL) {
    return 0;
  }
  uintptr_t id = o->id;
  free(o);
  atomic_fetch_sub(&alive, 1);
  return id;
}
