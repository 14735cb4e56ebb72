"""Stores that live in the process: results with a lifetime, and token buckets. Safe from any thread and loop."""

from __future__ import annotations

import copy
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import orjson

IMMUTABLE = frozenset({str, int, float, bool, type(None), bytes, complex})
ENTRY_BYTES = 300
"""What an entry takes beside its key's text and its value."""
MAX_BYTES = 64 * 1024 * 1024
ENOUGH = 1.0 - 1e-9
"""So much of a token is one: levels are sums of fractions."""


class Entry(NamedTuple):
    """One kept value. plain: it needs no copy. bytes: about what it takes, with its key.

    It is fresh until ends and of use until gone (seconds of the cache's clock). tags name what makes it void, since is
    the count of voids as of before the value was made.
    """

    ends: float
    plain: bool
    value: Any
    bytes: int
    gone: float
    tags: tuple[str, ...] = ()
    since: int = 0


_new = tuple.__new__  # half the time of calling the class


class MemoryCache:
    """Values with a lifetime, least recently used first out. None is a value like any other.

    max_entries bounds the count, max_bytes about what they take; monotonic gives seconds. Values are copied in and out,
    so that nobody shares them.
    """

    MISSING = object()

    def __init__(self, max_entries: int, monotonic: Callable[[], float], max_bytes: int = MAX_BYTES) -> None:
        self._max_entries, self._max_bytes = max_entries, max_bytes
        self._monotonic = monotonic
        self.entries: OrderedDict[Hashable, Entry] = OrderedDict()
        """The cache stage reads what is fresh by itself."""
        self.bytes = 0
        """About what the entries take."""
        self.clears = 0
        """How often something was cleared: what was begun before a clear is not to be kept after it."""
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.entries)

    def get(self, key: Hashable) -> Any:
        """A copy of the value, or MISSING when there is none or its time is over.

        Takes no lock for what is fresh: each step on the dict is atomic, and one too late only makes a miss.
        """
        entries = self.entries
        entry = entries.get(key)
        if entry is None:
            return self.MISSING
        if entry[0] <= self._monotonic():
            if entry.gone <= self._monotonic():
                self.drop(key, entry)
            return self.MISSING
        try:  # noqa: SIM105 - suppress() costs as much as the whole look-up
            entries.move_to_end(key)
        except KeyError:
            pass  # another thread evicted it meanwhile
        return entry[2] if entry[1] else copied(entry[2])

    def put(
        self,
        key: Hashable,
        value: Any,
        ttl_s: float,
        *,
        stale_s: float = 0.0,
        max_bytes: int | None = None,
        tags: tuple[str, ...] = (),
        since: int = 0,
    ) -> Entry | None:
        """Keep a copy for ttl_s seconds, and for stale_s more as one that is stale.

        None, and nothing kept, when it has no copy, takes more than max_bytes (or all the cache's), or ttl_s is not
        above 0.
        """
        if not ttl_s > 0:
            return None
        kind = value.__class__
        plain = kind in IMMUTABLE
        size = (len(value) if kind is str or kind is bytes else 8) if plain else size_of(value)
        if max_bytes is not None and size > max_bytes:
            return None
        size += ENTRY_BYTES
        for part in key if key.__class__ is tuple else (key,):
            if part.__class__ is bytes or part.__class__ is str:
                size += len(part)
            elif part is not None:
                size += _key_size(part)
        if size > self._max_bytes:
            return None
        if not plain:
            try:
                value = copied(value)
            except Exception:
                return None
        ends = self._monotonic() + ttl_s
        entry = _new(Entry, (ends, plain, value, size, ends + stale_s, tags, since))
        entries = self.entries
        with self._lock:
            before = entries.pop(key, None)
            entries[key] = entry
            self.bytes += size if before is None else size - before[3]
            if len(entries) > self._max_entries:
                self.bytes -= entries.popitem(last=False)[1][3]
            if self.bytes > self._max_bytes:
                self._shrink()
        return entry

    def keeper(self, ttl_s: float, max_bytes: int) -> Callable[[Hashable, Any, int], Entry | None]:
        """put() with this lifetime, for a stage that keeps what every call makes; it is told the bytes of the key."""
        entries, lock, monotonic, put = self.entries, self._lock, self._monotonic, self.put
        if not ttl_s > 0:
            return lambda key, value, key_bytes: None

        def keep(key: Hashable, value: Any, key_bytes: int) -> Entry | None:
            kind = value.__class__
            if kind not in IMMUTABLE:
                return put(key, value, ttl_s, max_bytes=max_bytes)
            size = len(value) if kind is str or kind is bytes else 8
            if size > max_bytes:
                return None
            size += ENTRY_BYTES + key_bytes
            ends = monotonic() + ttl_s
            entry: Entry = _new(Entry, (ends, True, value, size, ends, (), 0))
            with lock:
                count = len(entries)
                entries[key] = entry
                if len(entries) == count:  # something was there, which is rare: it would have been a hit
                    entries.move_to_end(key)
                    self.bytes = sum(kept[3] for kept in entries.values())
                    return entry
                held = self.bytes + size
                if count >= self._max_entries:
                    held -= entries.popitem(last=False)[1][3]
                self.bytes = held
                if held > self._max_bytes:
                    self._shrink()
            return entry

        return keep

    def drop(self, key: Hashable, entry: Entry) -> None:
        """Forget one entry, unless another has taken its place."""
        with self._lock:
            if self.entries.get(key) is entry:
                del self.entries[key]
                self.bytes -= entry.bytes

    def resize(self, max_entries: int, max_bytes: int | None = None) -> None:
        """Change the bounds; the oldest entries over them go."""
        with self._lock:
            self._max_entries = max_entries
            if max_bytes is not None:
                self._max_bytes = max_bytes
            self._shrink()

    def _shrink(self) -> None:
        while len(self.entries) > self._max_entries or self.bytes > self._max_bytes:
            self.bytes -= self.entries.popitem(last=False)[1].bytes

    def clear(self, prefix: str = "") -> int:
        """Forget everything, or what has a key (or a key's first part) that begins so; the number of entries."""
        with self._lock:
            self.clears += 1
            if not prefix:
                gone = len(self.entries)
                self.entries.clear()
                self.bytes = 0
                return gone
            keys = [key for key in self.entries if _text_of(key).startswith(prefix)]
            for key in keys:
                self.bytes -= self.entries.pop(key).bytes
        return len(keys)


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


def size_of(value: Any) -> int:
    """The bytes of a value as JSON; for what has none, about what it takes."""
    try:
        return len(orjson.dumps(value))
    except (TypeError, ValueError):
        return _estimate(value, set())


def _estimate(value: Any, seen: set[int]) -> int:
    kind = value.__class__
    if kind is str or kind is bytes or kind is bytearray:
        return len(value) + 2
    if kind in IMMUTABLE:
        return 8
    if id(value) in seen:
        return 8
    seen.add(id(value))
    try:
        if isinstance(value, Mapping):
            return 2 + sum(_estimate(k, seen) + _estimate(v, seen) + 2 for k, v in value.items())
        if isinstance(value, (list, tuple, set, frozenset)):
            return 2 + sum(_estimate(item, seen) + 1 for item in value)
        return sys.getsizeof(value, 64) + _estimate(getattr(value, "__dict__", {}), seen)
    except Exception:
        return MAX_BYTES  # too deep, or it will not be looked at: too large to keep


def _key_size(key: Hashable) -> int:
    if not isinstance(key, tuple):
        return len(key) if isinstance(key, (str, bytes)) else 8
    size = 0
    for part in key:
        size += len(part) if part.__class__ is str else _key_size(part)
    return size


def _text_of(key: Hashable) -> str:
    first = key[0] if isinstance(key, tuple) and key else key
    return first if isinstance(first, str) else ""


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
            self._touch(key)
            return (tokens - level) / rate

    def taker(self, rate: float, burst: float) -> Callable[[Hashable], float]:
        """take() of one token at this rate, for a stage that asks with every call: the same, without its calls."""
        buckets, lock, monotonic, max_keys = self._buckets, self._lock, self._monotonic, self._max_keys

        def take(key: Hashable) -> float:
            with lock:
                now = monotonic()
                known = buckets.get(key)
                if known is None:
                    buckets[key] = (burst - 1.0, now)  # a burst is 1 at least
                    if len(buckets) > max_keys:
                        buckets.popitem(last=False)
                    return 0.0
                level, at = known
                if now > at:
                    level += (now - at) * rate
                    if level > burst:
                        level = burst
                if level < ENOUGH:
                    buckets.move_to_end(key)
                    return (1.0 - level) / rate
                buckets[key] = (level - 1.0, now)
                buckets.move_to_end(key)
                return 0.0

        return take

    def take_all(self, wanted: Sequence[tuple[Hashable, float, float]]) -> tuple[float, int | None]:
        """Take one token from each bucket (key, rate, burst), or from none.

        (0.0, None) when granted, else the seconds until the slowest would grant it, and which one that is.
        """
        with self._lock:
            levels = [self._level(key, rate, burst) for key, rate, burst in wanted]
            waits = [(1.0 - level) / wanted[i][1] for i, (level, _) in enumerate(levels)]
            longest = max(waits)
            if longest > 1e-9:
                refused = waits.index(longest)
                self._touch(wanted[refused][0])
                return longest, refused
            for (key, _, _), (level, now) in zip(wanted, levels, strict=True):
                self._store(key, level - 1.0, now)
            return 0.0, None

    def peek(self, key: Hashable, *, rate: float, burst: float) -> float:
        """The tokens there are now."""
        with self._lock:
            return self._level(key, rate, burst)[0]

    def levels(self, wanted: Sequence[tuple[Hashable, float, float]]) -> list[float]:
        """The tokens that each bucket (key, rate, burst) holds now."""
        with self._lock:
            return [max(0.0, self._level(key, rate, burst)[0]) for key, rate, burst in wanted]

    def drain(self, key: Hashable, *, rate: float, burst: float, tokens: float = 1.0) -> None:
        """Take tokens whether or not they are there; the level stops at 0."""
        with self._lock:
            level, now = self._level(key, rate, burst)
            self._store(key, max(0.0, level - tokens), now)

    def _touch(self, key: Hashable) -> None:
        """A refusal is a use too: who only ever asks in vain must not be forgotten, and so come back full."""
        if key in self._buckets:
            self._buckets.move_to_end(key)

    def _level(self, key: Hashable, rate: float, burst: float) -> tuple[float, float]:
        now = self._monotonic()
        level, at = self._buckets.get(key, (burst, now))
        return min(burst, level + max(0.0, now - at) * rate), now

    def _store(self, key: Hashable, level: float, now: float) -> None:
        self._buckets[key] = (level, now)
        self._buckets.move_to_end(key)
        while len(self._buckets) > self._max_keys:
            self._buckets.popitem(last=False)
