package doctor

// JSONHelp describes what doctor --json prints, for `pyhook help json`.
const JSONHelp = `pyhook doctor --json
  healthy, exit_code, version, quick
  python            null, or executable, source, version, free_threaded, prefix,
                    virtual_env, library
  refused           [{what, why}] interpreters passed over
  torch             null, or version, numpy (null: missing), distributed, cuda,
                    devices, libuv_works, torchrun_broken,
                    torchrun_lacks_libuv
  backends          name -> {built_in, tried, ranks, dtypes, error}; dtypes: name
                    -> "" where all ranks can all-reduce it, or why they cannot
  checks            [{id, status, message, hint}], status: ok, warning, problem

`
