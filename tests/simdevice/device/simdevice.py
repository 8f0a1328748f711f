"""torch.sim: a device that is not the CPU, where there is no GPU. Importing it registers it.

    import sys; sys.path[:0] = [FOLDER_OF_THIS, FOLDER_THAT_BUILD_PRINTS]
    import simdevice
    torch.ones(3, device="sim")
    dist.init_process_group("cpu:gloo,sim:simccl", ...)

Of the environment: PYHOOK_SIM_DELAY_MS (200; 0: work runs at once) is how late work is that nobody
waits for; PYHOOK_SIM_SEED (1) is of the delays, each between half of that and all. Where there is
PYHOOK_SIM_SHARES, torch.multiprocessing shares the device's memory with other processes.
"""

import atexit
import os
import sys
import types
from multiprocessing.reduction import ForkingPickler
from typing import Any

import simdevice_c as device
import torch
import torch.distributed as dist
from torch.multiprocessing.reductions import reduce_tensor

NAME = "sim"


class Stream(torch.Stream):
    """A stream of the device, the current one if none is given."""

    def __new__(cls, device: Any = None, priority: int = 0, **kwargs: Any) -> "Stream":
        if kwargs:
            return super().__new__(cls, **kwargs)
        return super().__new__(cls, _device(device), priority=priority)


class Event(torch.Event):
    """An event of the device."""

    def __new__(cls, device: Any = None, enable_timing: bool = False, **_: Any) -> "Event":
        return super().__new__(cls, _device(device), enable_timing=enable_timing)


def _device(which: Any = None) -> torch.device:
    if which is None:
        return torch.device(NAME, device.current_device())
    if isinstance(which, int):
        return torch.device(NAME, which)
    found = torch.device(which)
    return found if found.index is not None else torch.device(NAME, device.current_device())


def _index(which: Any = None) -> int:
    return _device(which).index


def current_stream(which: Any = None) -> torch.Stream:
    return torch.accelerator.current_stream(_device(which))


def default_stream(which: Any = None) -> torch.Stream:
    where = _device(which)
    return torch.Stream(stream_id=0, device_index=where.index, device_type=where_type())


def where_type() -> int:
    return int(torch._C._autograd.DeviceType.PrivateUse1)


class ExternalStream(torch.Stream):
    """A stream by its native handle. As CUDA's, one of another device fails when it is used."""

    def __new__(cls, handle: int, device: Any = None) -> "ExternalStream":
        where = _device(device)
        return super().__new__(
            cls, stream_id=handle, device_index=where.index, device_type=where_type()
        )


def stream(which: torch.Stream) -> torch.Stream:
    """A context in which a stream is the current one: a torch.Stream is that itself."""
    return which


def late(which: str) -> None:
    """Choose which streams are late: "all", the "default" streams, or the "others"."""
    device.set_late(("all", "default", "others").index(which))


def _module() -> types.ModuleType:
    module = types.ModuleType("torch.sim")
    functions: dict[str, Any] = {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "init": lambda: None,
        "device_count": device.device_count,
        "current_device": device.current_device,
        "set_device": lambda which: device.set_device(_index(which)),
        "synchronize": lambda which=None: device.synchronize(_index(which)),
        "current_stream": current_stream,
        "default_stream": default_stream,
        "set_stream": torch.accelerator.set_stream,
        "stream": stream,
        "Stream": Stream,
        "ExternalStream": ExternalStream,
        "Event": Event,
        "get_amp_supported_dtype": lambda: [torch.float16, torch.bfloat16],
        "_is_in_bad_fork": lambda: False,
        "manual_seed": lambda seed: None,  # random numbers are the CPU generator's
        "manual_seed_all": lambda seed: None,
        "get_rng_state": lambda which=None: torch.get_rng_state(),
        "set_rng_state": lambda state, which=None: torch.set_rng_state(state),
        "memory_allocated": lambda which=None: device.memory_allocated(_index(which)),
        "set_memory_limit": lambda bytes, which=None: device.set_memory_limit(_index(which), bytes),
        "set_reuse": device.set_reuse,
        "set_delay": device.set_delay,
        "late": late,
        "counters": device.counters,
    }
    for name, value in functions.items():
        setattr(module, name, value)
    return module


def _create(options: Any, *_: Any) -> Any:
    def gloo(index: int) -> Any:
        store = dist.PrefixStore(f"simccl{index}", options.store)
        return dist.ProcessGroupGloo(store, options.group_rank, options.group_size, options.timeout)

    return device.over_gloo([gloo(index) for index in range(device.device_count())])


def load() -> None:
    """Do nothing: importing this did it.

    With the folder autoload on sys.path ``import torch`` calls it, as of any installed backend.
    """


def _reduce(tensor: torch.Tensor) -> Any:
    if tensor.device.type != NAME:
        return reduce_tensor(tensor)
    return _rebuild, (device.share(tensor), tensor.dtype, tensor.shape)


def _rebuild(handle: Any, dtype: torch.dtype, shape: Any) -> torch.Tensor:
    return device.open_shared(handle).view(dtype).view(shape)


torch.utils.rename_privateuse1_backend(NAME)
torch._register_device_module(NAME, _module())
torch.utils.generate_methods_for_privateuse1_backend(for_storage=True)
dist.Backend.register_backend("simccl", _create, extended_api=True, devices=[NAME])
if "PYHOOK_SIM_SHARES" in os.environ:
    ForkingPickler.register(torch.Tensor, _reduce)
atexit.register(device.stop)
sys.modules["torch.sim"] = torch.sim
