#include "heap.h"

#include <stddef.h>
#include <stdlib.h>

enum {
  HEAP = 64 << 20,   // HEAP_MAX_SIZE of glibc's malloc/arena.c, on 64 bits
  CHUNK = 120 << 10, // below M_MMAP_THRESHOLD: larger ones are not in the heap
};

// pyh_grow_heap has the calling thread's heap grown before it is needed. Python's main thread is
// not the process's first one, so glibc gives it an arena whose heap grows by one mprotect for each
// few pages: 13000 of them while torch 1.13 is imported, 20000 with 2.15. What has been grown once
// stays so when it is free (heap_info.mprotect_size), and its memory is not taken before it is
// used.
void pyh_grow_heap(void) {
#ifdef __GLIBC__
  void **first = NULL, **last = NULL;
  for (int i = 0; i < HEAP / CHUNK; i++) {
    void **chunk = malloc(CHUNK);
    if (chunk == NULL) {
      break;
    }
    *chunk = NULL;
    if (last == NULL) {
      first = chunk;
    } else {
      *last = chunk;
    }
    last = chunk;
  }
  // In the order of their addresses, so that the heap is trimmed once and not at each of them.
  while (first != NULL) {
    void **chunk = first;
    first = *chunk;
    free(chunk);
  }
#endif
}
