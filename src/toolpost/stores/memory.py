"""Stores that live in the process: results with a lifetime, and token buckets. Safe from any thread and loop."""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any

IMMUTABLE = frozenset({str, int, float, bool, type(None), bytes, complex})


class MemoryCache:
    """Values with a lifetime, least recently used first out. None is a value like any other.

    max_entries bounds the count; monotonic gives seconds. Values are copied in and out, so that nobody shares them.
    """

    MISSING = object()

    def __init__(self, max_entries: int, monotonic: Callable[[], float]) -> None:
        self._max_entries = max_entries
        self._monotonic = monotonic
        self.entries: OrderedDict[Hashable, tuple[float, bool, Any]] = OrderedDict()
        """Key -> (when it ends, whether it needs no copy, value); the cache stage reads what is fresh by itself."""
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.entries)

    def get(self, key: Hashable) -> Any:
        """A copy of the value, or MISSING when there is none or its time is over.

        Takes no lock: each step on the dict is atomic, and one that comes too late only makes a miss.
        """
        entries = self.entries
        entry = entries.get(key)
        if entry is None:
            return self.MISSING
        if entry[0] <= self._monotonic():
            entries.pop(key, None)
            return self.MISSING
        try:  # noqa: SIM105 - suppress() costs as much as the whole look-up
            entries.move_to_end(key)
        except KeyError:
            pass  # another thread evicted it meanwhile
        return entry[2] if entry[1] else copied(entry[2])

    def put(self, key: Hashable, value: Any, ttl_s: float) -> bool:
        """Keep a copy for ttl_s seconds. False, and nothing kept, when it has no copy or ttl_s is not above 0."""
        if ttl_s <= 0:
            return False
        immutable = value.__class__ in IMMUTABLE
        if not immutable:
            try:
                value = copied(value)
            except Exception:
                return False
        with self._lock:
            self.entries[key] = (self._monotonic() + ttl_s, immutable, value)
            self.entries.move_to_end(key)
            while len(self.entries) > self._max_entries:
                self.entries.popitem(last=False)
        return True

    def resize(self, max_entries: int) -> None:
        """Change the bound; the oldest entries over it go."""
        with self._lock:
            self._max_entries = max_entries
            while len(self.entries) > max_entries:
                self.entries.popitem(last=False)

    def clear(self) -> int:
        """Forget everything; the number of entries that went."""
        with self._lock:
            gone = len(self.entries)
            self.entries.clear()
        return gone


def copied(value: Any) -> Any:
    """A deep copy, quick for JSON values."""
    kind = value.__class__
    if kind in IMMUTABLE:
        return value
    if kind is list:
        return [copied(item) for item in value]
    if kind is dict:
        return {key: copied(item) for key, item in value.items()}
    return copy.deepcopy(value)


class TokenBuckets:
    """Token buckets by key. A bucket holds burst tokens and refills at rate a second.

    max_keys bounds memory: the bucket longest unused goes, and a full one is what a new key starts with.
    """

    def __init__(self, monotonic: Callable[[], float], max_keys: int = 100_000) -> None:
        self._monotonic = monotonic
        self._max_keys = max_keys
        self._buckets: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, key: Hashable, *, rate: float, burst: float, tokens: float = 1.0) -> float:
        """Take tokens. 0.0 when granted, else the seconds until they would be; then nothing was taken."""
        with self._lock:
            level, now = self._level(key, rate, burst)
            if level >= tokens - 1e-9:
                self._store(key, level - tokens, now)
                return 0.0
            return (tokens - level) / rate

    def take_all(self, wanted: Sequence[tuple[Hashable, float, float]]) -> tuple[float, int | None]:
        """Take one token from each bucket (key, rate, burst), or from none.

        (0.0, None) when granted, else the seconds until the slowest would grant it, and which one that is.
        """
        with self._lock:
            levels = [self._level(key, rate, burst) for key, rate, burst in wanted]
            waits = [(1.0 - level) / wanted[i][1] for i, (level, _) in enumerate(levels)]
            longest = max(waits)
            if longest > 1e-9:
                return longest, waits.index(longest)
            for (key, _, _), (level, now) in zip(wanted, levels, strict=True):
                self._store(key, level - 1.0, now)
            return 0.0, None

    def peek(self, key: Hashable, *, rate: float, burst: float) -> float:
        """The tokens there are now."""
        with self._lock:
            return self._level(key, rate, burst)[0]

    def drain(self, key: Hashable, *, rate: float, burst: float, tokens: float = 1.0) -> None:
        """Take tokens whether or not they are there; the level stops at 0."""
        with self._lock:
            level, now = self._level(key, rate, burst)
            self._store(key, max(0.0, level - tokens), now)

    def _level(self, key: Hashable, rate: float, burst: float) -> tuple[float, float]:
        now = self._monotonic()
        level, at = self._buckets.get(key, (burst, now))
        return min(burst, level + max(0.0, now - at) * rate), now

    def _store(self, key: Hashable, level: float, now: float) -> None:
        self._buckets[key] = (level, now)
        self._buckets.move_to_end(key)
        while len(self._buckets) > self._max_keys:
            self._buckets.popitem(last=False)
