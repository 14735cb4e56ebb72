"""Acceptance: checks a call, and writes it down once, whoever else accepts it under the same key at the same time."""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import orjson

from toolpost.calls.call import ToolCall
from toolpost.calls.errors import (
    IdempotencyMismatchError,
    InputValidationError,
    OverloadedError,
    StoreUnavailableError,
)
from toolpost.stores import Document, Task, TaskRow
from toolpost.worker.failpoints import fp
from toolpost.worker.keeping import had, task_of
from toolpost.worker.reports import Accept

if TYPE_CHECKING:
    from toolpost.engine.executor import ToolExecutor

KEYS = "call_key"
"""The kind of the documents that say which call a caller's idempotency key stands for."""
HALFWAY_S = 60.0
"""A key without a call is free after that; accepting takes less, or gives up."""
PATIENCE_S = 30.0
RETRIES = 20
COUNTED_S = 0.5
SELDOM = 20.0
"""How old the count of waiting calls may be, and how many times as old as counting them takes."""
LONGEST_DELAY_S = 366 * 86_400.0
MAX_ATTEMPTS = 100
MAX_KEY = 1_024
SHARE = 8
"""How many times the room that is left one caller may have taken: alone it fills eight ninths, and newcomers find a
place (dynamic thresholds: Choudhury and Hahne, IEEE/ACM Transactions on Networking 6, 1998)."""


class Acceptance:
    """Writes calls down for one executor."""

    def __init__(self, executor: ToolExecutor) -> None:
        self._executor = executor
        self._count_until = -math.inf
        self._count = 0
        self._counting = asyncio.Lock()
        self._crowd: dict[tuple[str, str], int] = {}

    async def accept(self, call: ToolCall, how: Accept) -> TaskRow | Task:
        """The task that was written, or the row of the one that was accepted first under the call's key."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await self._accept(call, how)
        except TimeoutError:
            raise StoreUnavailableError(f"the call could not be written down within {PATIENCE_S:g} s") from None

    async def _accept(self, call: ToolCall, how: Accept) -> TaskRow | Task:
        check(how)
        if call.idempotency_key is not None and not _key(call.idempotency_key):
            raise InputValidationError(f"an idempotency key is Unicode text of at most {MAX_KEY} characters")
        admission = self._executor.admission
        tool = await admission.check(call)
        shown = admission.shown(tool, call.arguments)
        if call.idempotency_key is None:
            await self._room(tool.name, call)
            task = await task_of(call, how, tool, shown, self._executor)
            fp("accept.before")
            if not await had(self._executor.records.submit(task)):
                raise InputValidationError(f"there is a call {call.id} already; give this one another id")
            fp("accept.after")
            self._count += 1
            return task
        key, mark, version = _key_of(call, tool.name), _mark_of(call), 0
        await self._room(tool.name, call)
        for _ in range(RETRIES):
            found: TaskRow | str | None = call.id
            if not await self._name(key, call.id, mark, version, how):
                known = await had(self._executor.records.document(KEYS, key))
                found = None if known is None else await self._known(known, mark)
                if isinstance(found, TaskRow):
                    return found
                if found is None:  # nobody's any more
                    version = 0 if known is None else known.version
                    continue
            assert isinstance(found, str)
            task = await task_of(replace(call, id=found), how, tool, shown, self._executor)
            fp("accept.before")
            if not await had(self._executor.records.submit(task)):
                row = await had(self._executor.records.task(found))
                if row is None:
                    continue
                return row
            fp("accept.after")
            self._count += 1
            return task
        raise StoreUnavailableError("the idempotency key is fought over; try again")

    async def _known(self, known: Document, mark: str) -> TaskRow | str | None:
        """The call that a key stands for; its id where it is not written yet; None where the key is free again."""
        said = orjson.loads(known.body)
        row = await had(self._executor.records.task(said["call_id"]))
        if row is None and self._executor.clock.now() - known.updated_at > HALFWAY_S:
            return None
        if said["mark"] != mark:
            raise IdempotencyMismatchError(
                "this idempotency key was used with other arguments; use a new key for a new call, or send the same "
                "arguments"
            )
        return row if row is not None else str(said["call_id"])

    async def _name(self, key: str, call_id: str, mark: str, expect: int, how: Accept) -> bool:
        """Have a key stand for a call; False when another did so first."""
        kept_s = 2 * max(86_400.0, self._executor.config.calls_kept) + how.delay_s
        body = orjson.dumps({"call_id": call_id, "mark": mark})
        document = Document(KEYS, key, 0, body, expires_at=self._executor.clock.now() + kept_s)
        return bool(await had(self._executor.records.put_document(document, expect)))

    async def _room(self, tool: str, call: ToolCall) -> None:
        """Raise OverloadedError when too many accepted calls wait, or so many of this caller's that others need the
        room that is left: nobody may have more than SHARE times as many as there is room for."""
        limit, clock = self._executor.config.max_accepted, self._executor.clock
        if clock.monotonic() >= self._count_until:
            async with self._counting:  # one asks for all who want to know
                if clock.monotonic() >= self._count_until:
                    began, records = clock.monotonic(), self._executor.records
                    count = sum((await had(records.count_tasks(("queued", "waiting")))).values())
                    crowded = count * (SHARE + 1) >= limit * SHARE  # else nobody can have so many
                    crowd = await had(records.crowd()) if crowded else []
                    self._crowd = {(tenant, user_id): many for tenant, user_id, many in crowd}
                    now = clock.monotonic()
                    self._count, self._count_until = count, now + max(COUNTED_S, SELDOM * (now - began))
        caller = call.tenant or "", call.user_id or ""
        own = 0 if caller == ("", "") else self._crowd.get(caller, 0)
        if self._count >= limit:
            why = f"{limit} accepted calls wait to be run (max_accepted); try again later"
        elif own >= SHARE * (limit - self._count):
            why = (
                f"{own} of your accepted calls wait to be run, and the room that is left for others is little "
                f"(max_accepted); try again when some of them have run"
            )
        else:
            return
        error = OverloadedError(why, tool=tool)
        error.retry_after_s = 5.0
        raise error


def check(how: Accept) -> None:
    """Refuse what cannot be promised. Raises InputValidationError."""
    problems: list[tuple[str, str, object]] = []
    if not _whole(how.priority, -100, 100):
        problems.append(("priority", "a whole number from -100 to 100", how.priority))
    if not isinstance(how.delay_s, (int, float)) or not 0 <= how.delay_s <= LONGEST_DELAY_S:
        problems.append(("delay_s", f"seconds from 0 to {LONGEST_DELAY_S:g}", how.delay_s))
    if not _whole(how.max_attempts, 1, MAX_ATTEMPTS):
        problems.append(("max_attempts", f"a whole number from 1 to {MAX_ATTEMPTS}", how.max_attempts))
    if how.order_key is not None and not _key(how.order_key):
        problems.append(("order_key", f"Unicode text of at most {MAX_KEY} characters", how.order_key))
    if how.callback is not None and not how.callback.startswith(("https://", "http://")):
        problems.append(("callback", "an https:// URL", how.callback))
    if problems:
        raise InputValidationError(
            "; ".join(f"{name} must be {expected}, got {got!r:.80}" for name, expected, got in problems)
        )


def _key(value: object) -> bool:
    """Whether a store can keep it."""
    if not isinstance(value, str) or len(value) > MAX_KEY or "\0" in value:
        return False
    return value.isascii() or value.encode("utf-8", "replace").decode() == value


def _whole(value: object, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _key_of(call: ToolCall, tool: str) -> str:
    """A digest of who calls what under which key; its parts cannot be mistaken for one another."""
    parts: list[Any] = ["toolpost accepted call 1", call.tenant, call.user_id, tool, call.idempotency_key]
    return _digest(parts)


def _mark_of(call: ToolCall) -> str:
    """What tells whether a key comes with other arguments."""
    arguments = dict(call.arguments) if isinstance(call.arguments, Mapping) else call.arguments
    return _digest([arguments, call.version, call.answers])


def _digest(value: Any) -> str:
    text = orjson.dumps(value, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS, default=repr)
    return hashlib.sha256(text).hexdigest()


__all__ = ["Acceptance", "check"]
