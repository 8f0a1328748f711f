"""The exceptions of pyhook. They need no torch, so that they can always be caught.

Each has a ``code``, a short, stable word that the Go side and tests match (messages may change,
codes do not), and a ``hint`` that says what to do.
"""

from __future__ import annotations


class HookError(Exception):
    """Base of pyhook's errors. ``str(error)`` is the message, and ``hint: ...`` on its own line."""

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(code, message, hint)  # args as given: pickles round-trip
        self.code = code
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\nhint: {self.hint}" if self.hint else self.message


class HookContractError(HookError, RuntimeError):
    """A hook broke the contract ``hook(state, bucket) -> Future[Tensor]``.

    It is a RuntimeError, as PyTorch raises one (torch/csrc/distributed/c10d/python_comm_hook.cpp),
    so that code which catches PyTorch's error catches this one.

    Codes: ``none_result``, ``not_future``, ``result_timeout``,
    ``none_value``, ``not_tensor``, ``list_value``, ``short``, ``sparse``,
    ``layout``, ``meta``, ``device``, ``complex``, ``nonfinite``, ``collective``
    (one that the hook issued failed, and the hook did not look at it).
    """


class HookLoadError(HookError, ValueError):
    """A hook or a state could not be made from its spec.

    Codes: ``bad_spec``, ``no_module``, ``no_file``, ``no_attribute``,
    ``not_callable``, ``arity``, ``import_failed``, ``async``, ``generator``,
    ``bad_arguments``, ``order`` (that which the hook says it bears is not known).
    """


class ShadowError(HookError, ImportError):
    """A file of the trainer's hides a module of torch, numpy or Python.

    Code: ``shadowed``.
    """


class GroupError(HookError, RuntimeError):
    """The process group could not be made or used.

    Codes: ``no_backend``, ``already_initialized``,
    ``not_initialized``, ``timeout``, ``rendezvous``, ``init_failed``, ``transport`` (of a
    trainer's own, in Go); and of ranks that meet: ``rank``, ``world_size``, ``address``,
    ``port_in_use``, ``not_a_store``, ``peer``, ``torch_version``, ``protocol`` (they have
    different versions of pyhook).
    """


class OutOfStepError(GroupError):
    """A process group was used that is retired, since a step failed.

    Code: ``out_of_step``.
    """


class RankError(HookError, RuntimeError):
    """A rank of ``pyhook.testing.run_ranks`` failed.

    ``rank`` is the rank that failed first and ``traceback`` its Python
    traceback as text. Codes: ``failed``, ``died``, ``timeout``.
    """

    def __init__(
        self, code: str, message: str, hint: str = "", rank: int = -1, traceback: str = ""
    ) -> None:
        super().__init__(code, message, hint)
        self.args = (code, message, hint, rank, traceback)
        self.rank = rank
        self.traceback = traceback


class RecordError(HookError, RuntimeError):
    """A recording cannot begin. What ends one later is a warning, and the training goes on.

    Codes: ``no_safetensors``, ``no_group``, ``folder``, ``bad_argument``.
    """


class StateError(HookError, RuntimeError):
    """A hook's state could not be saved or restored, and is as it was before.

    Codes: ``state_unsafe`` (only pickle can write or read it), ``state_corrupt``, ``state_version``
    (of the format), ``state_class`` (what is in the file and what is to be restored do
    not fit), ``state_rank`` (another rank's state), ``state_immutable`` (it cannot be restored
    in place), ``state_unsupported`` (a dtype, device or library that is not here),
    ``state_failed`` (the state's own methods raised: it may now be half restored).
    """
