"""A second device without one: tensors that say they are elsewhere and are computed here.

What is "there" may not meet what is "here", as with a GPU, and each time that the host has to wait
for a value from there is written down. The device calls itself ``meta``, the only one besides the
processor that every build of torch knows by name, so code for any device but ``cpu`` is what runs.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

PROJECT = "omnidrop_stream"
THERE = torch.device("meta")
HERE = torch.device("cpu")
WAITS = {
    "item",
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "equal",
    "is_nonzero",
    "_unique2",
}
"""What cannot go on before the device has told a value or a size."""
_MIXES = {"copy_", "_to_copy", "to", "index", "index_put_", "index_put"}
"""What takes tensors of both devices."""


class There(torch.Tensor):
    """A tensor on the pretended device; ``held`` is what it is made of."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> There:
        made = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=THERE,
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        raise AssertionError(f"{func} outside of the pretended device")

    def __repr__(self, *, tensor_contents: object = None) -> str:
        return f"There({list(self.shape)}, {self.dtype})"


class PretendedDevice(TorchDispatchMode):
    """While it is entered, ``device="meta"`` works. waits: where the host waited (function and
    function of this project), how often; calls: of each operation on tensors there.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        name = func.overloadpacket.__name__
        leaves = tree_leaves((args, named))
        tensors = [t for t in leaves if isinstance(t, torch.Tensor)]
        there = [t for t in tensors if isinstance(t, There)]
        devices = [d for d in leaves if isinstance(d, torch.device)]
        target = devices[0].type == THERE.type if devices else bool(there)
        indices = [t for t in tree_leaves(args[1:2]) if isinstance(t, torch.Tensor)]
        self.calls[name] += bool(there)
        self._check(name, there, tensors, indices, target)
        out = func(*tree_map(_held, args), **tree_map(_held, named))
        if not target:
            return out
        known = {id(t.held): t for t in there}
        if name == "copy_" and not isinstance(args[0], There):
            return args[0]
        return tree_map(lambda value: known.get(id(value), _there(value)), out)

    def _check(
        self,
        name: str,
        there: list[There],
        tensors: list[torch.Tensor],
        indices: list[torch.Tensor],
        target: bool,
    ) -> None:
        here = [t for t in tensors if not isinstance(t, There) and t.dim()]
        lost = [t for t in here if t.device.type == THERE.type]
        if lost:
            raise AssertionError(f"{name} takes a tensor whose values no dispatch has seen")
        if there and here and name not in _MIXES:
            shapes = [list(t.shape) for t in here]
            raise AssertionError(f"{name} takes tensors of two devices; here are {shapes}")
        back = name in ("to", "_to_copy") and not target
        back |= name == "copy_" and not isinstance(tensors[0], There)
        truths = name.startswith("index") and any(t.dtype == torch.bool for t in indices)
        # An index from here is sent first, from memory that nobody pinned.
        sent_first = name.startswith("index") and any(
            t.dim() and not isinstance(t, There) for t in indices
        )
        if there and (back or truths or sent_first or name in WAITS):
            self.waited(name)

    def waited(self, name: str) -> None:
        """The host had to wait."""
        self.waits[f"{name} in {self._where()}"] += 1

    def _where(self) -> str:
        for frame in reversed(traceback.extract_stack()):
            if f"/{PROJECT}/" in frame.filename:
                return f"{frame.filename.split(f'/{PROJECT}/')[-1]} {frame.name}"
        return "elsewhere"


class _Made(TorchFunctionMode):
    """`torch.tensor` fills memory, and ``tolist`` reads it, without any dispatch."""

    def __init__(self, device: PretendedDevice) -> None:
        super().__init__()
        self._device = device

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor) and named.get("device") == THERE:
            del named["device"]
            return func(*args, **named).to(THERE)
        if func is torch.Tensor.tolist and isinstance(args[0], There):
            self._device.waited("tolist")
            return args[0].held.tolist()
        return func(*args, **named)


def _held(value: Any) -> Any:
    if isinstance(value, torch.device):
        return HERE
    return value.held if isinstance(value, There) else value


def _there(value: Any) -> Any:
    return There(value) if isinstance(value, torch.Tensor) else value


@contextmanager
def pretended() -> Iterator[PretendedDevice]:
    """Enter the device; models and streams that meet it are made, and used, inside."""
    with torch.inference_mode(), PretendedDevice() as device, _Made(device):
        yield device


def sent(module: torch.nn.Module) -> None:
    """Move all that the module holds to the pretended device, inside of which this is called."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[name] = torch.nn.Parameter(There(parameter.data), False)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = There(buffer)
