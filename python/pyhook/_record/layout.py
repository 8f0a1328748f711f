"""Where each parameter's gradient lies in a bucket."""

from __future__ import annotations

from typing import Any, Optional

import torch


class Layouts:
    """The layouts of a recording's buckets, each once, and the parameters that they name."""

    def __init__(self, model: Optional[Any]) -> None:
        self.parameters: list[dict[str, Any]] = []
        self.list: list[dict[str, Any]] = []
        self.bytes = 0  # of both in the manifest, about
        self._number_of: dict[int, int] = {}
        self._kept: list[Any] = []  # so that an id stays one parameter's
        self._known: dict[str, int] = {}
        if model is None:
            return
        ddp = isinstance(model, torch.nn.parallel.DistributedDataParallel)
        for name, parameter in (model.module if ddp else model).named_parameters():
            if parameter.requires_grad:
                self._add(parameter, name)

    def _add(self, parameter: Any, name: Optional[str]) -> int:
        number = self._number_of[id(parameter)] = len(self.parameters)
        self._kept.append(parameter)
        described = {
            "name": name,
            "shape": list(parameter.shape),
            "dtype": str(parameter.dtype).rpartition(".")[2],
        }
        self.parameters.append(described)
        self.bytes += len(repr(described))
        return number

    def number(self, bucket: Any, buffer: torch.Tensor) -> int:
        """Return the number of a bucket's layout."""
        offset, gradients = 0, []
        for parameter in bucket.parameters():
            number = self._number_of.get(id(parameter))
            if number is None:
                number = self._add(parameter, None)
            shape, length = list(parameter.shape), parameter.numel()
            if parameter.is_complex() and not buffer.is_complex():
                shape, length = [*shape, 2], 2 * length  # DDP of torch 2.14 and later
            gradients.append(
                {"parameter": number, "offset": offset, "length": length, "shape": shape}
            )
            offset += length
        if offset != buffer.numel():
            raise ValueError(
                f"bucket {bucket.index()} has {buffer.numel()} elements and its parameters {offset}"
            )
        dtype = str(buffer.dtype).rpartition(".")[2]
        layout = {"dtype": dtype, "numel": offset, "gradients": gradients}
        key = repr(layout)
        if key not in self._known:
            self._known[key] = len(self.list)
            self.list.append(layout)
            self.bytes += len(key)
        return self._known[key]
