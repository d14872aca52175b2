"""Work that may be done together with the same work of others.

A generator of turns that needs the model yields a `Wanted` and is sent the result. Whoever drives
it may gather equal ones of several streams and answers (the model thread does, `runtime.worker`),
or serve each alone by the plain path (`alone`). This file imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


def always() -> bool:
    """True."""
    return True


@dataclass(frozen=True, slots=True, eq=False)
class Wanted:
    """One request to the model, and both ways to serve it. Each yields between two turns."""

    group: Hashable
    """Those with an equal one may be served together."""
    request: Any
    plain: Callable[[Any], Generator[None, None, Any]]
    """The result of one request."""
    together: Callable[[Sequence[Any]], Generator[None, None, list[Any]]]
    """The results of several, in their order."""
    repeatable: bool = True
    """Whether it may be served again where serving several of them failed: it changes nothing."""
    ready: Callable[[], bool] = always
    """Whether its next turn, behind the first one, has something to do; else it is to wait."""


def alone(turns: Generator[Any, Any, T]) -> Generator[Any, None, T]:
    """``turns`` with each `Wanted` served by itself; what else they yield is passed on."""
    result: Any = None
    try:
        while True:
            try:
                event = turns.send(result)
            except StopIteration as done:
                value: T = done.value
                return value
            result = None
            if isinstance(event, Wanted):
                result = yield from event.plain(event.request)
            else:
                yield event
    finally:
        turns.close()
