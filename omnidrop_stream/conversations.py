"""What was asked and answered before, by session: bounded, and forgotten with the stream."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from omnidrop_stream.model.template import Turn


class Conversations:
    """Turns of each session, newest sessions kept. The empty session has no memory."""

    def __init__(
        self, turn_tokens: Callable[[Turn], int], max_tokens: int, max_sessions: int
    ) -> None:
        self._turn_tokens = turn_tokens
        self._max_tokens = max_tokens
        self._max_sessions = max_sessions
        self._sessions: OrderedDict[str, list[Turn]] = OrderedDict()

    def of(self, session: str) -> tuple[Turn, ...]:
        """The turns of ``session`` that fit its budget, oldest first."""
        return tuple(self._sessions.get(session, ()))

    def remember(self, session: str, turn: Turn) -> None:
        """Add a turn; the oldest turns and the least used sessions make room."""
        if not session:
            return
        turns = self._sessions.setdefault(session, [])
        turns.append(turn)
        self._sessions.move_to_end(session)
        while turns and sum(map(self._turn_tokens, turns)) > self._max_tokens:
            turns.pop(0)
        while len(self._sessions) > self._max_sessions:
            self._sessions.popitem(last=False)

    def forget(self, since_s: float) -> None:
        """Remove every turn that was asked after ``since_s`` of stream time."""
        for session in list(self._sessions):
            turns = [t for t in self._sessions[session] if t.asked_at_s <= since_s]
            if turns:
                self._sessions[session] = turns
            else:
                del self._sessions[session]
