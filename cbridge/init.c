#include "init.h"

#include "signals.h"
#include "threadstate.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>

static char *copy(const char *text) {
  return strdup(text != NULL ? text : "unknown error");
}

// preinitialize fixes encodings and the C locale's UTF-8 as python itself does,
// not as an embedder. PyPreConfig is ten ints; the buffer leaves room.
static char *preinitialize(void) {
  if (pyh.PyPreConfig_InitPythonConfig == NULL || pyh.Py_PreInitialize == NULL) {
    return NULL;
  }
  uint64_t preconfig[64] = {0};
  pyh.PyPreConfig_InitPythonConfig(preconfig);
  PyStatus status = pyh.Py_PreInitialize(preconfig);
  return status.kind != 0 ? copy(status.message) : NULL;
}

// set_hash_seed: a PyInitConfig never reads PYTHONHASHSEED itself.
static int set_hash_seed(PyInitConfig *config) {
  const char *text = getenv("PYTHONHASHSEED");
  if (text == NULL || *text == '\0' || strcmp(text, "random") == 0) {
    return 0;
  }
  return pyh.PyInitConfig_SetInt(config, "use_hash_seed", 1) ||
         pyh.PyInitConfig_SetInt(config, "hash_seed", (int64_t)strtoul(text, NULL, 10));
}

// initialize_pep741 is the way of 3.14 and later: no struct of ours meets one
// of theirs. Its defaults are those of an isolated configuration, so what a
// user expects of python (PYTHON* variables, user site) is asked for by name.
static char *initialize_pep741(const char *executable) {
  PyInitConfig *config = pyh.PyInitConfig_Create();
  if (config == NULL) {
    return copy("PyInitConfig_Create: out of memory");
  }
  int bad = pyh.PyInitConfig_SetInt(config, "isolated", 0) ||
            pyh.PyInitConfig_SetInt(config, "use_environment", 1) ||
            pyh.PyInitConfig_SetInt(config, "user_site_directory", 1) ||
            pyh.PyInitConfig_SetInt(config, "safe_path", 0) ||
            pyh.PyInitConfig_SetInt(config, "install_signal_handlers", 0) ||
            pyh.PyInitConfig_SetInt(config, "parse_argv", 0) ||
            set_hash_seed(config) ||
            pyh.PyInitConfig_SetStr(config, "program_name", executable) ||
            pyh.Py_InitializeFromInitConfig(config);
  char *text = NULL;
  if (bad) {
    const char *why = NULL;
    pyh.PyInitConfig_GetError(config, &why);
    text = copy(why);
  }
  pyh.PyInitConfig_Free(config);
  return text;
}

// initialize_legacy serves 3.9 to 3.13. Not PyConfig: without its headers only
// the isolated configuration could be had without signal handlers, and that
// one ignores PYTHONPATH.
static char *initialize_legacy(const char *executable) {
  if (pyh.Py_SetProgramName == NULL) {
    return copy("neither PyInitConfig_Create nor Py_SetProgramName is exported");
  }
  // Kept for ever: Python does not copy the name.
  wchar_t *name = pyh.Py_DecodeLocale(executable, NULL);
  if (name == NULL) {
    return copy("the interpreter's path cannot be decoded");
  }
  pyh.Py_SetProgramName(name);
  // 0: Go keeps its signal handlers.
  pyh.Py_InitializeEx(0);
  return NULL;
}

char *pyh_initialize(const char *executable) {
  if (pyh.Py_IsInitialized()) {
    return copy("Python is already running in this process");
  }
  pyh_note_faults();
  stack_t stack;
  sigaltstack(NULL, &stack);
  char *text = preinitialize();
  if (text == NULL) {
    text = pyh.PyInitConfig_Create != NULL ? initialize_pep741(executable)
                                           : initialize_legacy(executable);
  }
  // PYTHONFAULTHANDLER and PYTHONDEVMODE have put handlers, and a stack for them.
  pyh_keep_faults();
  sigaltstack(&stack, NULL);
  if (text != NULL) {
    return text;
  }
  pyh.RuntimeError = *(PyObject **)pyh.RuntimeError;
  pyh.TypeError = *(PyObject **)pyh.TypeError;
  pyh_adopt_main_thread();
  return NULL;
}
