// The guesses of the hot path, all of them. Each saves 2 % of a noop hook's call
// or more (docs/decisions/0019); one that does not, goes.
#ifndef PYHOOK_HOT_PATH_H
#define PYHOOK_HOT_PATH_H

#include <stdbool.h>

// A hook whose futures were done at return eight times in a row is asked for the
// next one's value at once, and not first whether it is done. When that was
// wrong, it costs a C++ exception, and is not tried again for 264 calls.
enum { PYH_TAKE_VALUE_AFTER = 8, PYH_WAS_PENDING = -256 };

static inline bool pyh_will_be_done(int done_in_a_row) {
  return done_in_a_row >= PYH_TAKE_VALUE_AFTER;
}

static inline int pyh_next_in_a_row(int done_in_a_row, bool pending) {
  return pending && done_in_a_row > 0 ? 0 : done_in_a_row + 1;
}

// A hook that left requires_grad and the names alone in an invocation's first 64 calls, and whose
// value is the invocation's own object, is checked for both after one call in 8. Until then the
// next calls may see them changed; no result depends on them. Gain: 2.6 % on torch 1.13, 4.4 % on 2.15.
static inline bool pyh_check_graph_and_names(unsigned calls, bool own_value) {
  return !own_value || calls < 64 || calls % 8 == 0;
}

// A library of C that a hook uses may take Go's signals. That is looked at, by
// five system calls, after each of an invocation's first 64 calls and then after
// one in 64: such a library does it when it is first used.
static inline bool pyh_look_at_signals(unsigned calls) { return calls < 64 || calls % 64 == 0; }

#endif
