"""From messages to accepted questions: looked at, limited, journalled together, then confirmed.

The broker keeps a message until it is confirmed, and it is confirmed when it is in the journal (or
was refused): so a crash at any moment loses no question, at worst it comes twice and is recognised.
"""

from __future__ import annotations

import itertools
import logging
import math
import secrets
import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from clients import contract
from clients.mqtt.answering import Answering
from clients.mqtt.config import MqttConfig
from clients.mqtt.messages import Incoming, reply
from clients.mqtt.outbox import Outbox
from clients.mqtt.ports import NodePort
from clients.mqtt.reading import Refused, Shape
from clients.mqtt.requests import Kept, Question, early_owner, parse_query
from clients.mqtt.topics import ALL, Command, Topics
from runtime.journal import Accepted, Journal, JournalFile, NewQuery, Row
from runtime.limits import Limit, Limits

_LOG = logging.getLogger("clients.mqtt")


def make_limits(config: MqttConfig, clock: Callable[[], float] = time.monotonic) -> Limits:
    """The buckets of each client: questions, tokens of answers, errors told."""
    limits = config.limits
    return Limits(
        {
            "queries": Limit(limits.queries_per_s, limits.queries_burst, strict=True),
            "tokens": Limit(limits.tokens_per_s, limits.tokens_burst),
            "refusals": Limit(limits.refusals_per_s, max(1.0, limits.refusals_per_s)),
        },
        clock,
    )


@dataclass(frozen=True, slots=True)
class _Found:
    """A question, and why it may not be accepted unless it is known already."""

    question: Question
    new: NewQuery
    refused: Refused | None


class Intake:
    """Belongs to the event loop."""

    def __init__(
        self,
        node: NodePort,
        journal: Journal,
        outbox: Outbox,
        answering: Answering,
        limits: Limits,
        topics: Topics,
        config: MqttConfig,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._node = node
        self._journal = journal
        self._outbox = outbox
        self._answering = answering
        self._limits = limits
        self._topics = topics
        self._config = config
        self._stats = node.stats
        self._wall = wall
        self._run = secrets.token_hex(4)
        self._numbers = itertools.count(1)
        self._ahead: Counter[str] = Counter()
        """Answers of each owner that the messages at hand ask for."""

    @property
    def shape(self) -> Shape:
        """What a message may look like."""
        return Shape(self._config.largest_bytes, self._config.deepest, self._node.decode)

    async def take(self, queries: list[tuple[Incoming, Command]]) -> None:
        """Accept or refuse each; when this returns they may be confirmed to the broker."""
        self._ahead.clear()
        found = [one for message, command in queries if (one := self._look(message, command))]
        if not found:
            return
        try:
            results = await self._journal.do(lambda file: [_accept(file, one) for one in found])
        except sqlite3.Error as error:
            _LOG.error("the journal cannot be written: %s", error)
            for one in found:
                text = "the node cannot write its journal now; ask again later"
                self._refuse_known(one, "internal", text, retry_after_ms=5_000)
            return
        for one, accepted in zip(found, results, strict=True):
            if accepted is None:
                if one.refused is not None:
                    self._tell(one.refused)
            else:
                self._begin(one, accepted)

    # -- one message

    def _look(self, message: Incoming, command: Command) -> _Found | None:
        """What is in it, without the journal; a refusal is told from here."""
        self._stats.count("mqtt.queries")
        if self._flooding(early_owner(message, command, self._topics)):
            self._stats.count("mqtt.dropped.flood")
            return None
        fresh_id = f"{self._run}-{next(self._numbers)}"
        try:
            question = parse_query(
                message, command, self._topics, self.shape, fresh_id, self._config.oldest_s
            )
            self._check_camera(question)
        except Refused as refused:
            self.refuse(refused)
            return None
        if self._node.control_tokens_in(question.text):
            self._stats.count("mqtt.control_tokens")  # read as plain characters
        over = self._limited(question)
        if over is not None and not self._may_be_told(over):
            return None
        return _Found(question, self._new(question), over)

    def _flooding(self, owner: str) -> bool:
        """Over every limit: not even read. Only where a topic says who it is."""
        if not owner or not self._limits.exhausted(owner, "queries", "refusals"):
            return False
        self._answering.press(owner)
        return True

    def _check_camera(self, question: Question) -> None:
        cameras = self._node.cameras()
        if question.camera in cameras or (question.camera == ALL and cameras):
            return
        known = ", ".join(cameras) or "none"
        name = question.camera[:64].encode("ascii", "backslashreplace").decode()
        raise Refused(
            "unknown_camera",
            f"there is no camera called {name!r}; known are: {known}",
            question.id,
            question.asker.route,
            question.asker.owner,
        )

    def _limited(self, question: Question) -> Refused | None:
        """Take what the question costs, or say why it may not be asked now."""
        owner, route = question.asker.owner, question.asker.route
        limits = self._config.limits
        held = self._answering.held(owner) + self._ahead[owner]
        if held + self._answers(question) > limits.waiting + limits.at_once:
            return Refused(
                "busy",
                f"{held} of your questions wait or are being answered; ask again later",
                question.id,
                route,
                owner,
                retry_after_ms=1_000,
            )
        wait_s = self._limits.take(owner, queries=1, tokens=self._tokens(question))
        if wait_s == 0.0:
            self._ahead[owner] += self._answers(question)
            return None
        if math.isinf(wait_s):
            return Refused(
                "bad_request",
                f"max_tokens = {self._tokens(question)} (of all cameras together) is more than "
                f"one client may ever have: {self._config.limits.tokens_burst}",
                question.id,
                route,
                owner,
            )
        self._answering.press(owner)
        return Refused(
            "rate_limited",
            "you ask more than one client may; ask again later",
            question.id,
            route,
            owner,
            retry_after_ms=math.ceil(wait_s * 1e3),
        )

    def _answers(self, question: Question) -> int:
        return len(self._node.cameras()) if question.camera == ALL else 1

    def _tokens(self, question: Question) -> int:
        return self._answering.tokens(question.max_tokens) * self._answers(question)

    # -- the journal

    def _new(self, question: Question) -> NewQuery:
        now = self._wall()
        parts: tuple[tuple[str, str], ...] = ()
        if question.camera == ALL:
            parts = tuple((f"{question.id}/{name}", name) for name in self._node.cameras())
        return NewQuery(
            client=question.asker.key,
            id=question.id,
            camera=question.camera,
            request=question.request(),
            accepted_wall_s=now,
            deadline_wall_s=now + question.deadline_s,
            parts=parts,
        )

    def _begin(self, one: _Found, accepted: Accepted) -> None:
        """It is on disk: say so, and answer it; or it was there before."""
        kept = Kept.of(one.question.request())
        row = accepted.row
        if accepted.known:
            self._again(one, accepted, kept)
            return
        self._stats.count("mqtt.accepted")
        self.tell_accepted(row, kept)
        for part in accepted.parts or (row,):
            self._answering.accept(part, kept, one.question.deadline_s)

    def _again(self, one: _Found, accepted: Accepted, kept: Kept) -> None:
        row, question = accepted.row, one.question
        if one.refused is None:
            self._limits.give_back(question.asker.owner, queries=1, tokens=self._tokens(question))
        if row.camera != question.camera or not kept.same_as(Kept.of(row.request)):
            text = f"the id {question.id!r} stands for another question; use a new one"
            self._refuse_known(one, "bad_request", text)
            return
        self._stats.count("mqtt.duplicates")
        self.tell_accepted(row, kept)
        for ended in (*accepted.parts, row):
            if ended.final is not None:
                self._answering.send_end(ended, kept.route)
            else:
                self._answering.reroute(ended.number, kept)

    def tell_accepted(self, row: Row, kept: Kept) -> None:
        """Tell the asker that it is in the journal; not where one message is all that is wanted."""
        if not kept.stream:
            return
        number = row.number
        message = reply(kept.route, contract.line(contract.accepted(row.id)).encode("ascii"))
        message.on_sent = lambda: self._journal.later(lambda file: file.told(number))
        self._outbox.put(message)

    # -- refusals

    def refuse(self, refused: Refused) -> None:
        """Say why; where nobody can be told, or too much was told already, it is counted."""
        if self._may_be_told(refused):
            self._tell(refused)

    def _tell(self, refused: Refused) -> None:
        self._stats.count(f"mqtt.refused.{refused.code}")
        if refused.route is None:
            self._stats.count("mqtt.dropped.unanswerable")
            return
        told = contract.problem(refused.code, refused.text, refused.id, refused.retry_after_ms)
        self._outbox.put(reply(refused.route, contract.line(told).encode("ascii")))

    def _may_be_told(self, refused: Refused) -> bool:
        if self._limits.take(refused.owner, refusals=1) == 0.0:
            return True
        self._stats.count("mqtt.dropped.flood")
        return False

    def _refuse_known(
        self, one: _Found, code: str, text: str, retry_after_ms: int | None = None
    ) -> None:
        asker = one.question.asker
        self.refuse(Refused(code, text, one.question.id, asker.route, asker.owner, retry_after_ms))


def _accept(file: JournalFile, one: _Found) -> Accepted | None:
    """On the journal's thread. None: refused, and not known from before."""
    if one.refused is None:
        return file.accept(one.new)
    row = file.find(one.new.client, one.new.id)
    return None if row is None else Accepted(row, True, file.parts(row.number))
