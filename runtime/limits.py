"""Limits for each client: token buckets. Pure arithmetic; the caller brings the clock."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

MAX_CLIENTS = 4096
"""Buckets kept; the least recently used client's are forgotten first (it starts full again)."""


@dataclass(slots=True)
class Bucket:
    """``level`` units are there now; ``per_s`` flow in, up to ``size``."""

    size: float
    per_s: float
    level: float
    at_s: float

    def refill(self, now_s: float) -> None:
        """What flowed in since the last look; a clock that goes backwards adds nothing."""
        self.level = min(self.size, self.level + max(0.0, now_s - self.at_s) * self.per_s)
        self.at_s = now_s

    def wait_s(self, amount: float) -> float:
        """Seconds until ``amount`` is there; 0 where it is, infinite where it never will be."""
        if amount <= self.level:
            return 0.0
        if amount > self.size or self.per_s <= 0:
            return float("inf")
        return (amount - self.level) / self.per_s


@dataclass(frozen=True, slots=True)
class Limit:
    """So many units a second on average, ``burst`` at once."""

    per_s: float
    burst: float
    strict: bool = False
    """A refused attempt counts as well: who does not wait waits longer, up to another burst. So a
    flood is not even let through at the rate, and costs the others nothing.
    """


class Limits:
    """One bucket of each named limit for each client."""

    def __init__(
        self,
        limits: dict[str, Limit],
        clock: Callable[[], float],
        max_clients: int = MAX_CLIENTS,
    ) -> None:
        """clock: monotonic seconds."""
        self._limits = limits
        self._clock = clock
        self._max_clients = max_clients
        self._clients: OrderedDict[str, dict[str, Bucket]] = OrderedDict()

    def wait_s(self, client: str, **amounts: float) -> float:
        """Seconds until all of the amounts are there (0: now); nothing is taken."""
        buckets = self._of(client)
        return max(buckets[name].wait_s(amount) for name, amount in amounts.items())

    def exhausted(self, client: str, *names: str) -> bool:
        """Whether none of these limits has one unit left. If so it was a refused attempt for each,
        as `take` would count it, in one look: it is asked at every message of a flood.
        """
        buckets = self._of(client)
        if any(buckets[name].level >= 1.0 for name in names):
            return False
        for name in names:
            self._refused(name, buckets[name], 1.0)
        return True

    def take(self, client: str, **amounts: float) -> float:
        """Take all of the amounts, or nothing: seconds to wait then (0: taken).

        An amount above a limit's burst is never to be had: the answer is infinite.
        """
        wait_s = self.wait_s(client, **amounts)
        buckets = self._clients[client]
        if wait_s == 0.0:
            for name, amount in amounts.items():
                buckets[name].level -= amount
            return 0.0
        for name, amount in amounts.items():
            self._refused(name, buckets[name], amount)
        return self.wait_s(client, **amounts)

    def _refused(self, name: str, bucket: Bucket, amount: float) -> None:
        if self._limits[name].strict:
            bucket.level = max(-bucket.size, bucket.level - amount)

    def give_back(self, client: str, **amounts: float) -> None:
        """Return what was taken and not used."""
        buckets = self._of(client)
        for name, amount in amounts.items():
            buckets[name].level += amount  # the next look cuts it to the bucket's size

    def __len__(self) -> int:
        """How many clients have buckets."""
        return len(self._clients)

    def _of(self, client: str) -> dict[str, Bucket]:
        now_s = self._clock()
        buckets = self._clients.get(client)
        if buckets is None:
            buckets = {
                name: Bucket(limit.burst, limit.per_s, limit.burst, now_s)
                for name, limit in self._limits.items()
            }
            self._clients[client] = buckets
            if len(self._clients) > self._max_clients:
                self._clients.popitem(last=False)
        else:
            self._clients.move_to_end(client)
            for bucket in buckets.values():
                bucket.refill(now_s)
        return buckets
