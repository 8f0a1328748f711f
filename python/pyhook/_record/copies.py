"""Copies of buffers and results, taken at once and brought to the CPU later."""

from __future__ import annotations

from typing import Any, Optional

import torch

from .._device import streams


class Copy:
    """A copy of a tensor's elements, flat.

    On a device it is taken on the current stream, which the copy to the CPU waits for on another
    one: the training's streams do nothing more for it.
    """

    def __init__(self, tensor: torch.Tensor) -> None:
        with torch.no_grad():
            plain = tensor.detach()
            if plain.is_conj() or plain.is_neg():
                plain = plain.resolve_conj().resolve_neg()
            flat = plain.reshape(-1)
            # reshape made a copy where the elements do not lie one after another.
            self._tensor = flat if flat.data_ptr() != plain.data_ptr() else flat.clone()
        self.bytes = self._tensor.numel() * self._tensor.element_size()
        self._event: Optional[Any] = None
        device = self._tensor.device
        if device.type != "cpu":
            self._event = streams.module_of(device).current_stream(device).record_event()

    def on_cpu(self) -> torch.Tensor:
        """Return the elements in the CPU's memory. For the writer's thread."""
        if self._event is None:
            return self._tensor.to("cpu")
        stream = streams.new_stream(self._tensor.device)
        with torch.no_grad(), streams.current(stream):
            stream.wait_event(self._event)
            cpu = self._tensor.to("cpu")
            self._tensor.record_stream(stream)
        return cpu


def of_result(value: Any, buffer: torch.Tensor) -> tuple[dict[str, Any], Optional[Copy]]:
    """Copy a result, and describe how it lies in memory: PyTorch reads some of it wrong."""
    if not isinstance(value, torch.Tensor):
        return {"error": f"the future holds {type(value).__name__} and no tensor"}, None
    if value.layout is not torch.strided or value.is_meta:
        return {"error": f"the future holds a tensor of layout {value.layout}"}, None
    described = {
        "dtype": str(value.dtype).rpartition(".")[2],
        "shape": list(value.shape),
        "stride": list(value.stride()),
        "offset": int(value.storage_offset()),
        "own_buffer": value.data_ptr() == buffer.data_ptr() and value.shape == buffer.shape,
    }
    return described, Copy(value)
