"""What stands for a CUDA graph: a dispatch mode that writes down which operations touched which
memory, and replays just these, with rubbish in all memory that nobody wrote. Like a GPU it refuses
to record what the host would have to wait for.
"""

from __future__ import annotations

import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.pretend_device import WAITS, There

STOPS = WAITS | {"unique_consecutive", "bincount"}
"""What cannot go on before the device has told a value or a size."""


def tensors(values):
    return [t for t in tree_leaves(values) if isinstance(t, torch.Tensor)]


def memory(tensor):
    held = tensor.held if isinstance(tensor, There) else tensor
    return held.untyped_storage().data_ptr()


class Recorder(TorchDispatchMode):
    """A `Capture`; counts its records and their replays. there: the model is on the pretended
    device, so nothing from here may be sent. inputs: weak references to what a record reads and
    has not made.
    """

    def __init__(self, there=False):
        super().__init__()
        self.records = self.replays = 0
        self.inputs = []
        self._there, self._calls, self._made = there, [], set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name, named = func.overloadpacket.__name__, kwargs or {}
        if name in STOPS or (name.startswith("index") and asks_the_host(args)):
            raise RuntimeError(f"{name}: operation not permitted when stream is capturing")
        given = tensors((args, named))
        if self._there and any(t.dim() and not isinstance(t, There) for t in given):
            raise RuntimeError(f"{func} copies from memory that is not pinned, in a record")
        self.inputs += [weakref.ref(t) for t in given if id(t) not in self._made]
        out = func(*args, **named)
        self._made |= {id(t) for t in tensors(out)}
        self._calls.append((func, args, named, out))
        return out

    def __call__(self, work):
        with torch.inference_mode():
            work()
            self._calls, self.inputs, self._made = [], [], set()
            with self:
                work()
        calls, self._calls = self._calls, []
        self.records += 1

        def replay():
            self.replays += 1
            for call in calls:
                again(*call)

        return replay


def asks_the_host(args):
    """Whether an indexing operation takes truths, whose number is not known, or a value from the
    host.
    """
    truths = any(t.dtype == torch.bool for t in tensors(args[1:2]))
    values = [t for t in tensors(args[2:3]) if t.dim() == 0 and not isinstance(t, There)]
    return truths or bool(values and args[0].dim())


def again(func, args, named, out):
    """One operation once more, its result where it was."""
    given = {memory(t) for t in tensors((args, named)) if t.numel()}
    if func._schema.is_mutable:
        func(*args, **named)
        return
    made = [t for t in tensors(out) if t.numel() and memory(t) not in given]
    if not made:  # a view of something
        return
    if func.overloadpacket.__name__.startswith(("empty", "new_empty")):
        for one in made:
            one.fill_(float("nan") if one.is_floating_point() else 1)
        return
    fresh = [t for t in tensors(func(*args, **named)) if t.numel()]
    for old, new in zip(made, fresh, strict=True):
        old.copy_(new)
