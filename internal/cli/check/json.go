package check

// JSONHelp describes what check --json prints, for `pyhook help json`.
const JSONHelp = `pyhook check --json
  ok                bool    the contract holds, and --max-error where given
  hook, hook_name   as given; module and qualified name
  state, state_args as given or chosen
  ranks, steps, dtype, seed, backend, python, torch
  buckets           one object for each, empty where the run failed
    bucket, shapes, elements
    valid           all elements are there and finite
    alike           all ranks have the same bits
    first_unlike_step       -1: none
    error_last_step, error_worst_step   {max, rms} relative to the exact mean;
                            null where a result is not finite
    median_seconds  of the hook call until its future is done
    own_memory      the result is the bucket's own memory
    result_dtype
    problem         why it is not ok; absent where it is
  bytes_last_step, bytes_total    TCP payload that all ranks sent; null: unknown
  order             in which buckets are reduced; null where the run failed:
    judged          serial (NCCL's), ordered or overlapped
    compared        the order that all steps were run in again; "": none
    same_bits       both gave the same results; null: that is not known
    why             what same_bits comes of; absent where it is true
    step_seconds, compared_step_seconds     median; null: unknown
    compared_failure        null, or as failure: the run in that order failed
  stock_refuses     why DistributedDataParallel refuses the hook; absent where it
                    does not
  ranks_may_differ  alike was not judged
  legacy_names      what the hook used of torch 1.7 to 1.9
  problems, hint    why the contract does not hold
  warnings          what may be wrong though it does
  no_bytes          why bytes could not be counted; absent where they were
  failure           null, or the root cause of a run that failed:
    code            hook_raised, none_result, not_future, future_failed, not_tensor,
                    short, bad_result, load, group, peer, timeout, died,
                    stopped, no_python, failed
    rank, step, bucket      -1: before the first
    message, traceback, hint, others

`
