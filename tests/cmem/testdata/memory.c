#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "cmem.h"

static void *use_and_release(void *arg) {
  for (int i = 0; i < 1000; i++) {
    pyh_owner_retain(arg);
    pyh_owner_release(arg);
  }
  pyh_owner_release(arg);
  return NULL;
}

static void check_many_threads(pyh_owner *o) {
  pthread_t threads[4];
  for (int i = 0; i < 4; i++) {
    pyh_owner_retain(o);
    CHECK(pthread_create(&threads[i], NULL, use_and_release, o) == 0);
  }
  pyh_owner_release(o);
  for (int i = 0; i < 4; i++) {
    pthread_join(threads[i], NULL);
  }
}

void check_memory(void) {
  const size_t sizes[] = {0, 1, 63, 64, 65, 4096, 100001};
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    void *base;
    pyh_owner *o = pyh_owner_alloc(sizes[i], 64, &base);
    CHECK(o != NULL && (uintptr_t)base % 64 == 0);
    for (size_t k = 0; k < sizes[i]; k++) {
      CHECK(((char *)base)[k] == 0);
    }
    memset(base, 1, sizes[i]);
    pyh_owner_release(o);
  }
  // volatile: or the compiler sees that it cannot be had.
  volatile size_t more = (size_t)1 << 62;
  void *base;
  CHECK(pyh_owner_alloc(more, 64, &base) == NULL);
  check_many_threads(pyh_owner_alloc(100, 64, &base));
  CHECK(pyh_owners() == 0);

  int ends[2];
  CHECK(pipe(ends) == 0);
  pyh_owner_notify(ends[1]);
  for (uintptr_t id = 1; id <= 3; id++) {
    check_many_threads(pyh_owner_foreign(id));
  }
  char buffer[8];
  CHECK(read(ends[0], buffer, sizeof buffer) == 3);
  uintptr_t sum = 0, id;
  while ((id = pyh_owner_next_released()) != 0) {
    sum += id;
  }
  CHECK(sum == 6);
  CHECK(pyh_owners() == 0);
  pyh_owner_notify(-1);
  close(ends[0]);
  close(ends[1]);
}
