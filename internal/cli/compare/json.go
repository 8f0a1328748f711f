package compare

// JSONHelp describes what compare --json prints, for `pyhook help json`.
const JSONHelp = `pyhook compare --json
  ok                bool    every hook ran
  model, gradients  the model's name; where the gradients come from
  parameters, elements, buckets
  ranks, steps, seed, backend, python, torch
  accumulated_stride        accumulated errors are over each such element
  calibration       {message_seconds, byte_seconds}: the constants of this machine;
                    null where no hook ran
  networks          {name, bits_per_second, latency_seconds} of each --net
  passes_seconds    --passes
  no_bytes          why bytes could not be counted; absent where they were
  hooks             one object for each
    hook, hook_name, state, state_args
    failure         null, or {code, rank, message, traceback, hint}: the rest is empty
    bytes           that a rank sent in a step: the median of the steps' second half
    seconds, hook_seconds, collective_seconds      the same of the slowest rank
    bytes_by_step, seconds_by_step, collective_seconds_by_step
    deviations      {error, accumulated, cosine} by step
    state_bytes     of the tensors that the state holds on a rank
    collectives     {kind, count, bytes} of a rank in the last step
    predicted       {network, ranks, bytes, seconds, collective_seconds,
                    step_seconds} for each network and number of ranks;
                    step_seconds with --passes only
    training        null, or {accuracy, weights_identical, loss} with --train
    warnings        what the predictions leave out

`
