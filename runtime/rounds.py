"""What several jobs and streams want of the model, served together. Belongs to the model thread.

One alone is served by the plain path. Where serving several fails, each that may be repeated is
served again on its own, so that only the one at fault is told.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, Protocol

from omnidrop_stream.wanted import Wanted
from runtime.turns import Kind


class Waiting(Protocol):
    """Who waits for the model."""

    due: float
    wanted: Wanted | None
    serving: Round | None


class Round:
    """Members whose requests have one group. Each `step` is one turn."""

    def __init__(self, members: Sequence[Waiting], kind: Kind, now: float) -> None:
        self.members = tuple(members)
        self.kind = kind
        self.due = min(member.due for member in members)
        self.last_turn = now
        self._wanted = [member.wanted for member in members if member.wanted is not None]
        self._results: dict[int, Any] = {}
        self._errors: dict[int, BaseException] = {}
        self._turns = self._serve()
        for member in members:
            member.serving = self

    def ready(self) -> bool:
        """Whether its next turn has something to do; the device may still be at the last one. Where
        that cannot be told it has: the turn then meets the error, and tells it to its members.
        """
        try:
            return self._wanted[0].ready()
        except Exception:
            return True

    def step(self) -> bool:
        """A turn of the model's work; whether it is done."""
        try:
            next(self._turns)
        except StopIteration:
            return True
        return False

    def result_of(self, member: Waiting) -> tuple[Any, BaseException | None]:
        """Once done: what a member wanted, or why it could not be had."""
        number = self.members.index(member)
        return self._results.get(number), self._errors.get(number)

    def _serve(self) -> Generator[None, None, None]:
        wanted = self._wanted
        if len(wanted) == 1:
            yield from self._serve_alone(0)
            return
        try:
            results = yield from wanted[0].together([one.request for one in wanted])
        except Exception as error:
            for number, one in enumerate(wanted):
                if one.repeatable:
                    yield from self._serve_alone(number)
                else:
                    self._errors[number] = error
        else:
            self._results = dict(enumerate(results))

    def _serve_alone(self, number: int) -> Generator[None, None, None]:
        one = self._wanted[number]
        try:
            self._results[number] = yield from one.plain(one.request)
        except Exception as error:
            self._errors[number] = error
