package worker

// #define _GNU_SOURCE
// #include <pthread.h>
// #include <semaphore.h>
// #include <signal.h>
// #include <sys/syscall.h>
// #include <unistd.h>
//
// typedef struct {
//   int signal, tid;
//   sem_t known; // tid is
// } signal_thread;
//
// static void *handle_signals(void *arg) {
//   signal_thread *w = arg;
//   sigset_t others;
//   sigfillset(&others);
//   sigdelset(&others, w->signal);
//   pthread_sigmask(SIG_SETMASK, &others, NULL);
//   w->tid = (int)syscall(SYS_gettid);
//   sem_post(&w->known);
//   for (;;) {
//     pause();
//   }
//   return NULL;
// }
//
// // start_signal_thread makes a thread that does nothing but handle a signal; 0: it failed.
// static int start_signal_thread(int number) {
//   static signal_thread w;
//   pthread_t thread;
//   w.signal = number;
//   sem_init(&w.known, 0, 0);
//   if (pthread_create(&thread, NULL, handle_signals, &w) != 0) {
//     return 0;
//   }
//   pthread_detach(thread);
//   while (sem_wait(&w.known) != 0) { // interrupted
//   }
//   return w.tid;
// }
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

// startSignalThread makes an OS thread that handles stackSignal, and returns its id. Sent to
// a thread that runs a hook, the signal would end a sleep or another wait in it early.
func startSignalThread() int { return int(C.start_signal_thread(stackSignal)) }
