"""What waits in the process to leave it, and what could not be done: outbox and dead letters."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from toolpost.calls.clock import SYSTEM_CLOCK, Clock
from toolpost.stores import Outgoing
from toolpost.stores.memory_claims import MemoryClaims
from toolpost.stores.standing import checked, legible


class MemoryMail(MemoryClaims):
    """Claims that can be finished with messages, the outbox those wait in, and dead letters."""

    def __init__(self, clock: Clock = SYSTEM_CLOCK, max_letters: int = 10_000) -> None:
        super().__init__(clock)
        self._max_letters = max_letters
        self._outbox: OrderedDict[int, tuple[float, int, Outgoing]] = OrderedDict()
        self._messages = itertools.count(1)
        self._letters: dict[int, dict[str, Any]] = {}
        self._by_src: dict[tuple[str, int, int], int] = {}
        self._letter_ids = itertools.count(1)

    def put_outbox(self, messages: Sequence[Outgoing], /) -> None:
        with self._lock:
            self._check(messages)
            self._put(messages)

    def _check(self, messages: Sequence[Outgoing]) -> None:
        for message in messages:
            checked(kind=message.kind, dest=message.dest, key=message.key)

    def _put(self, messages: Sequence[Outgoing]) -> None:
        for message in messages:
            due_at = self._clock.monotonic() + message.due_in_s
            self._outbox[next(self._messages)] = (due_at, 0, message._replace(due_in_s=0.0))

    def take_outbox(
        self, limit: int, lease_s: float, kinds: Sequence[str] | None = None, /
    ) -> list[tuple[int, Outgoing, int]]:
        now = self._clock.monotonic()
        with self._lock:
            due = sorted(
                (due_at, number)
                for number, (due_at, _, message) in self._outbox.items()
                if due_at <= now and (kinds is None or message.kind in kinds)
            )
            taken = []
            for _, number in due[:limit]:
                _, tries, message = self._outbox[number]
                self._outbox[number] = (now + lease_s, tries + 1, message)
                taken.append((number, message, tries + 1))
            return taken

    def count_outbox(self, kinds: Sequence[str] | None = None, /) -> int:
        with self._lock:
            return sum(kinds is None or message.kind in kinds for _, _, message in self._outbox.values())

    def sent(self, ids: Sequence[int], /) -> None:
        with self._lock:
            for number in ids:
                self._outbox.pop(number, None)

    def defer_outbox(self, ids: Sequence[int], due_in_s: float, /) -> None:
        due_at = self._clock.monotonic() + due_in_s
        with self._lock:
            for number in ids:
                if number in self._outbox:
                    self._outbox[number] = (due_at, *self._outbox[number][1:])

    def bury(
        self,
        *,
        reason: str,
        payload: bytes,
        src: tuple[str, int, int] | None = None,
        task_id: str | None = None,
        error: str = "",
    ) -> int:
        with self._lock:
            return self._bury(reason, payload, src, task_id, error)

    def _bury(
        self, reason: str, payload: bytes, src: tuple[str, int, int] | None, task_id: str | None, error: str
    ) -> int:
        checked(task_id=task_id, src=src and src[0])
        wall = self._clock.now()
        number = self._by_src.get(src) if src is not None else None
        if number is not None:
            letter = self._letters[number]
            letter["tries"] += 1
            letter["last_at"] = wall
            return number
        number = next(self._letter_ids)
        self._letters[number] = {
            "id": number,
            "task_id": task_id,
            "src": src,
            "reason": legible(reason),
            "error": legible(error),
            "payload": payload,
            "tries": 1,
            "first_at": wall,
            "last_at": wall,
            "redriven_at": None,
            "redriven_as": None,
        }
        if src is not None:
            self._by_src[src] = number
        while len(self._letters) > self._max_letters:
            oldest = self._letters.pop(next(iter(self._letters)))
            self._by_src.pop(oldest["src"], None)
        return number

    def dead(self, limit: int = 100, after: int | None = None, /) -> list[dict[str, Any]]:
        with self._lock:
            numbers = sorted((n for n in self._letters if after is None or n < after), reverse=True)
            return [dict(self._letters[number]) for number in numbers[:limit]]
