package worker

// #include <signal.h>
//
// static void default_fatal_signals(void) {
//   int fatal[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT};
//   for (unsigned i = 0; i < sizeof fatal / sizeof fatal[0]; i++) {
//     signal(fatal[i], SIG_DFL);
//   }
// }
import "C"

// stackSignal has the worker write its stacks (faulthandler.register): one that
// neither Go, Python, torch nor glibc uses.
const stackSignal = 61

// defaultFatalSignals gives up Go's handlers: a crash inside C would be reported as
// goroutines and the exit code 2. faulthandler's handler comes before the default.
func defaultFatalSignals() { C.default_fatal_signals() }
