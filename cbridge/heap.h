// Memory of the C library.
#ifndef PYHOOK_HEAP_H
#define PYHOOK_HEAP_H

// pyh_grow_heap has the calling thread's heap grown, for what Python will allocate.
void pyh_grow_heap(void);

#endif
