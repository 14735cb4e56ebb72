"""Claims that live in the process, under one lock."""

from __future__ import annotations

import itertools
import math
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Literal

from toolpost.calls.clock import SYSTEM_CLOCK, Clock
from toolpost.calls.errors import ConfigurationError
from toolpost.stores import Claim, ClaimAsk, Outgoing
from toolpost.stores.standing import ClaimRow, checked, granted, refused, settles, shown, standing

MAX_LEGIBLE = 1024
TURN = 16
"""So many grants apart it is looked for what has expired, and at most four times as many claims go."""
INFINITE = math.inf

Row = tuple[str, str | None, str, int, str, str, str, bool, float, float, float | None, bytes | None]
"""A ClaimRow, as it is kept: a bare tuple takes a tenth of the time to make."""
Grant = Callable[[str, str | None, str], Row | bytes | None]
Done = Callable[[Row, bytes | None], None]


class MemoryClaims:
    """Claims in memory. Leases run by the clock's monotonic time, what people read is its wall time.

    Expired claims go by themselves, a few with each one that is granted. A row that is there is changed under the lock,
    unless its lease never ends: then nobody but its holder changes it. A new one appears by one operation on the dict.
    """

    local = True

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock, self._monotonic, self._now = clock, clock.monotonic, clock.now
        self._lock = threading.Lock()
        self._fences = itertools.count(1)
        self._claims: dict[str, Row] = {}
        self._ends: dict[float, deque[tuple[float, str, int]]] = {}
        """Lifetime -> when the claims that are kept for so long expire, first first: (when, key, fence)."""

    def claim(self, ask: ClaimAsk, /) -> Claim:
        key, fingerprint, owner, _, _, _, _, tool, tenant = ask
        with self._lock:
            now = self._monotonic()
            row = self._claims.get(key)
            if row is None:
                checked(key=key, fingerprint=fingerprint, owner=owner, tool=tool, tenant=tenant)
                new = granted(None, ask, next(self._fences), now, self._now())
                row = self._claims.setdefault(key, (*new,))
                if row[3] == new.fence:
                    self._drop_expired(now, 2)
                    return shown(new, "granted", now)
            known = ClaimRow._make(row)
            refusal = refused(known, ask, now)
            if refusal is not None:
                return refusal
            new = granted(known, ask, next(self._fences), now, self._now())
            self._claims[key] = (*new,)
            return shown(new, "granted", now)

    def at_hand(self, owner: str, tool: str, ttl_s: float) -> tuple[Grant, Done]:
        """claim() and finish() for a stage of this process, whose keys and fingerprints are digests and never lapse.

        The first gives the row where it is new, what is kept where it is done, and None where there is more to say: ask
        claim() then. The second says that such a row is done.
        """
        claims, fences, lock, monotonic, now = self._claims, self._fences, self._lock, self._monotonic, self._now
        ends = self._ends.setdefault(ttl_s, deque())
        legible: set[str] = set()

        def grant(key: str, fingerprint: str | None, tenant: str) -> Row | bytes | None:
            row = claims.get(key)
            if row is not None:
                if row[2] != "done" or row[10] is None or row[10] <= monotonic():
                    return None
                return row[11] if fingerprint == row[1] or fingerprint is None or row[1] is None else None
            if tenant not in legible:
                checked(owner=owner, tool=tool, tenant=tenant)
                if len(legible) >= MAX_LEGIBLE:
                    legible.clear()
                legible.add(tenant)
            fence = next(fences)
            new = (key, fingerprint, "claimed", fence, owner, tool, tenant, False, INFINITE, now(), None, None)
            if claims.setdefault(key, new) is not new:
                return None
            if not fence % TURN:
                with lock:
                    self._drop_expired(monotonic(), 4 * TURN)
            return new

        def done(row: Row, kept: bytes | None) -> None:
            key, fingerprint, _, fence, _, _, tenant, _, _, began_at, _, _ = row
            until = monotonic() + ttl_s
            claims[key] = (key, fingerprint, "done", fence, owner, tool, tenant, False, INFINITE, began_at, until, kept)
            ends.append((until, key, fence))

        return grant, done

    def renew(self, held: Sequence[tuple[str, int]], lease_s: float, /) -> list[bool]:
        until = self._monotonic() + lease_s
        with self._lock:
            return [self._renewed(key, fence, until) for key, fence in held]

    def _renewed(self, key: str, fence: int, until: float) -> bool:
        row = self._claims.get(key)
        if row is None or row[3] != fence or row[2] != "claimed":
            return False
        self._claims[key] = (*row[:8], until, *row[9:])
        return True

    def finish(
        self,
        key: str,
        fence: int,
        state: Literal["done", "failed", "unknown"],
        result: bytes | None,
        ttl_s: float,
        outbox: Sequence[Outgoing] = (),
        /,
    ) -> bool:
        row = self._claims.get(key)
        if row is not None and row[8] == INFINITE and row[3] == fence and row[2] == "claimed" and not outbox:
            self._write(row, state, result, ttl_s)
            return True
        with self._lock:
            if outbox:
                self._check(outbox)
            answer = self._settle(key, fence, state, result, ttl_s)
            if answer is None and outbox:
                self._put(outbox)
        return answer is None or answer

    def _settle(self, key: str, fence: int, state: str, result: bytes | None, ttl_s: float) -> bool | None:
        """None when it was written, else the answer."""
        row = self._claims.get(key)
        if row is None:
            return False
        answer = settles(row[3], row[2], row[11], fence, state, result)
        if answer is None:
            self._write(row, state, result, ttl_s)
        return answer

    def _write(self, row: Row, state: str, result: bytes | None, ttl_s: float) -> None:
        key, fingerprint, _, fence, owner, tool, tenant, taken_over, lease_until, began_at, _, _ = row
        expires_at = None if state == "unknown" else self._monotonic() + ttl_s
        self._claims[key] = (
            key, fingerprint, state, fence, owner, tool, tenant, taken_over, lease_until, began_at, expires_at, result,
        )  # fmt: skip
        if expires_at is not None:
            ends = self._ends.get(ttl_s)
            if ends is None:
                ends = self._ends.setdefault(ttl_s, deque())
            ends.append((expires_at, key, fence))

    def release(self, key: str, fence: int, /) -> bool:
        with self._lock:
            row = self._claims.get(key)
            if row is None or row[3] != fence or row[2] not in ("claimed", "unknown"):
                return False
            del self._claims[key]
            return True

    def lookup(self, key: str, /) -> Claim | None:
        row, now = self._claims.get(key), self._monotonic()
        if row is None:
            return None
        known = ClaimRow._make(row)
        state = standing(known, now)
        return None if state is None else shown(known, state, now)

    def forget(self, key: str, /) -> bool:
        now = self._monotonic()
        with self._lock:
            row = self._claims.get(key)
            if row is None or standing(ClaimRow._make(row), now) in ("in_flight", None):
                return False
            del self._claims[key]
            return True

    def unsettled(self, limit: int = 100, /) -> list[Claim]:
        now = self._monotonic()
        rows = [ClaimRow._make(row) for row in list(self._claims.values())]
        rows = [row for row in rows if standing(row, now) == "unknown"]
        rows.sort(key=lambda row: (row.began_at, row.key))
        return [shown(row, "unknown", now) for row in rows[:limit]]

    def _drop_expired(self, now: float, limit: int) -> int:
        """Drop at most limit expired claims; how many."""
        dropped = 0
        for ends in list(self._ends.values()):
            if ends and ends[0][0] <= now:
                dropped += self._drop(ends, now, limit - dropped)
        return dropped

    def _drop(self, ends: deque[tuple[float, str, int]], now: float, limit: int) -> int:
        dropped, claims = 0, self._claims
        while dropped < limit and ends and ends[0][0] <= now:
            _, key, fence = ends.popleft()
            row = claims.get(key)
            if row is not None and row[3] == fence and row[10] is not None and row[10] <= now:
                del claims[key]
                dropped += 1
        return dropped

    def _check(self, messages: Sequence[Outgoing]) -> None:
        raise ConfigurationError("this store has no outbox; keep the claims in a Records store, such as sqlite:///")

    def _put(self, messages: Sequence[Outgoing]) -> None:
        """Write messages that were checked."""
