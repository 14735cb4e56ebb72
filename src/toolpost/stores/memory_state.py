"""MemoryState: the State of one process. Answers are at hand, and nothing outlives the process."""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from toolpost.calls.clock import SYSTEM_CLOCK, Clock
from toolpost.stores.circuits import Circuits
from toolpost.stores.memory import TokenBuckets
from toolpost.stores.memory_claims import MemoryClaims

GRANTED = (0.0, -1)


class MemoryState:
    """Limits, cache, circuits and claims in memory, safe from any thread and loop.

    max_keys bounds buckets, circuits, cached values and marks of tags, max_bytes the cached values besides: what was
    longest unused goes first, which shows as a full bucket, a closed circuit, a miss. Claims have no such bound, as a
    forgotten one would let a body run again: those that are done or failed go when their time is over, a few with each
    new one; those in flight or unknown never go by themselves. Places go when their lease is over, in the same way.
    """

    local = True
    batches = 0
    """Round trips there have been."""

    def __init__(
        self,
        url: str = "memory://",
        *,
        clock: Clock = SYSTEM_CLOCK,
        prefix: str = "",
        max_keys: int = 100_000,
        max_bytes: int = 64 * 1024 * 1024,
    ) -> None:
        self.url = url
        self._buckets = TokenBuckets(clock.monotonic, max_keys)
        # The operations are those of the parts, without a call in between.
        places, values, claims = Places(clock), Values(clock, max_keys, max_bytes), MemoryClaims(clock)
        circuits = Circuits(clock.monotonic, max_keys)
        self.enter, self.leave = places.enter, places.leave
        self.get, self.marks, self.put, self.void = values.get, values.marks, values.put, values.void
        self.delete, self.clear = values.delete, values.clear
        self.admit, self.report = circuits.admit, circuits.report
        self.circuit, self.force = circuits.circuit, circuits.force
        self.claim, self.renew, self.finish = claims.claim, claims.renew, claims.finish
        self.at_hand = claims.at_hand
        self.release, self.lookup = claims.release, claims.lookup
        self.forget, self.unsettled = claims.forget, claims.unsettled

    def take(self, buckets: Sequence[tuple[str, float, float]], /) -> tuple[float, int]:
        """Take one token from each bucket (key, rate a second, burst), or from none."""
        if len(buckets) == 1:
            key, rate, burst = buckets[0]
            wait_s = self._buckets.take(key, rate=rate, burst=burst)
            return (wait_s, 0) if wait_s else GRANTED
        if not buckets:
            return GRANTED
        wait_s, refused = self._buckets.take_all(buckets)
        return GRANTED if refused is None else (wait_s, refused)

    def left(self, buckets: Sequence[tuple[str, float, float]], /) -> list[float]:
        """How many tokens each bucket (key, rate a second, burst) holds now, taking none; burst for an unknown one."""
        return self._buckets.levels(buckets)

    def ping(self) -> None:
        """It is always there."""

    def close(self) -> None:
        """There is nothing to let go of."""


class Places:
    """Who is within which limit, by key and holder, until a lease ends."""

    def __init__(self, clock: Clock) -> None:
        self._monotonic = clock.monotonic
        self._held: OrderedDict[str, dict[str, float]] = OrderedDict()
        self._lock = threading.Lock()

    def enter(self, key: str, holder: str, limit: int, lease_s: float, /) -> float:
        """Take one of limit places: 0.0 when had, else the seconds until the oldest lease ends. Again: it renews."""
        with self._lock:
            now = self._monotonic()
            held = self._held.get(key)
            if held is None:
                self._sweep(now)
                held = self._held[key] = {}
            if holder not in held or held[holder] <= now:
                _drop_ended(held, now)
                if len(held) >= limit:
                    return max(min(held.values(), default=now + lease_s) - now, 1e-6)
            held[holder] = now + lease_s
            return 0.0

    def leave(self, key: str, holder: str, /) -> None:
        """Give the place back."""
        with self._lock:
            held = self._held.get(key)
            if held is not None and held.pop(holder, None) is not None and not held:
                del self._held[key]

    def _sweep(self, now: float) -> None:
        for _ in range(min(2, len(self._held))):
            key, held = self._held.popitem(last=False)
            _drop_ended(held, now)
            if held:
                self._held[key] = held


def _drop_ended(held: dict[str, float], now: float) -> None:
    for holder in [holder for holder, until in held.items() if until <= now]:
        del held[holder]


class _Value(NamedTuple):
    data: bytes
    stale_at: float
    gone_at: float
    marks: tuple[tuple[str, int], ...]


class Values:
    """Bytes with a lifetime and tags; least recently used first out."""

    def __init__(self, clock: Clock, max_keys: int, max_bytes: int) -> None:
        self._monotonic = clock.monotonic
        self._max_keys, self._max_bytes = max_keys, max_bytes
        self._values: OrderedDict[str, _Value] = OrderedDict()
        self._bytes = 0
        self._marks: OrderedDict[str, int] = OrderedDict()
        """Tag -> its mark. A tag that has none yet, or whose mark was dropped for room, is given one never used before:
        so that forgetting a mark makes misses, and never brings back what was void."""
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def get(self, key: str, tags: Sequence[str] = (), /) -> tuple[bytes, float, float] | None:
        """(value, seconds until it is stale, seconds until it is gone), None where there is none or a tag is void."""
        with self._lock:
            value = self._values.get(key)
            if value is None:
                return None
            now = self._monotonic()
            if value.gone_at <= now or (value.marks and not self._valid(value.marks)):
                self._drop(key)
                return None
            self._values.move_to_end(key)
            return value.data, max(0.0, value.stale_at - now), value.gone_at - now

    def marks(self, tags: Sequence[str], /) -> list[int]:
        """A number for each tag, which void() changes and which never comes again."""
        with self._lock:
            return [self._mark(tag) for tag in tags]

    def put(
        self, key: str, value: bytes, ttl_s: float, stale_s: float = 0.0, tags: Mapping[str, int] | None = None, /
    ) -> bool:
        """Keep a value, unless one of its tags was made void since its mark was asked for."""
        marks = tuple(tags.items()) if tags else ()
        with self._lock:
            if ttl_s <= 0 or not self._valid(marks):
                return False
            self._drop(key)
            if len(value) > self._max_bytes:
                return False
            now = self._monotonic()
            self._values[key] = _Value(value, now + ttl_s, now + ttl_s + stale_s, marks)
            self._bytes += len(value)
            while len(self._values) > self._max_keys or self._bytes > self._max_bytes:
                self._drop(next(iter(self._values)))
            return True

    def void(self, tags: Sequence[str], /) -> None:
        """Make every entry with one of these tags invalid."""
        with self._lock:
            for tag in tags:
                self._marks.pop(tag, None)

    def delete(self, key: str, /) -> bool:
        """Forget one value."""
        with self._lock:
            return self._drop(key)

    def clear(self, prefix: str = "", /) -> int:
        """Forget all values whose key begins so; how many."""
        with self._lock:
            return sum([self._drop(key) for key in [key for key in self._values if key.startswith(prefix)]])

    def _drop(self, key: str) -> bool:
        value = self._values.pop(key, None)
        if value is None:
            return False
        self._bytes -= len(value.data)
        return True

    def _valid(self, marks: tuple[tuple[str, int], ...]) -> bool:
        for tag, mark in marks:
            if self._marks.get(tag) != mark:
                return False
            self._marks.move_to_end(tag)
        return True

    def _mark(self, tag: str) -> int:
        mark = self._marks.get(tag)
        if mark is None:
            mark = self._marks[tag] = next(self._numbers)
            while len(self._marks) > self._max_keys:
                self._marks.popitem(last=False)
        return mark
