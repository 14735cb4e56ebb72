"""What both SQL stores share: the contract as operations of a batch, statement texts, and rows as values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import orjson

from toolpost.calls.clock import Clock
from toolpost.stores import (
    Claim,
    ClaimAsk,
    Finish,
    Outgoing,
    Pending,
    Task,
    TaskRow,
    Work,
)
from toolpost.stores.sql_documents import SqlDocuments
from toolpost.stores.sql_tasks import Wanted, states_of
from toolpost.stores.standing import CLAIM_COLUMNS, OPEN, checked

CLAIM_ROWS = f"select {CLAIM_COLUMNS} from toolpost_claims"

LETTER_FIELDS = (
    "id task_id src_topic src_partition src_offset reason error payload tries first_at last_at redriven_at redriven_as"
).split()
LETTERS = f"select {', '.join(LETTER_FIELDS)} from toolpost_dead_letters"


def letter_of(row: Sequence[Any]) -> dict[str, Any]:
    """A row of LETTERS."""
    letter = dict(zip(LETTER_FIELDS, row, strict=True))
    src = (letter.pop("src_topic"), letter.pop("src_partition"), letter.pop("src_offset"))
    return letter | {"src": None if src[0] is None else src, "payload": bytes(letter["payload"])}


OUTGOING_COLUMNS = ("kind", "dest", "key", "body", "headers", "due_at", "created_at")


def outgoing_values(message: Outgoing, now: float) -> tuple[Any, ...]:
    """A message as values of OUTGOING_COLUMNS."""
    kind, dest, key, body, headers, due_in_s = message
    checked(kind=kind, dest=dest, key=key)
    text = orjson.dumps(dict(headers)).decode() if headers else None
    return (kind, dest, key, body, text, now + due_in_s, now)


def outgoing_of(row: Sequence[Any]) -> tuple[int, Outgoing, int]:
    """A row of id, kind, dest, key, body, headers, tries."""
    number, kind, dest, key, body, headers, tries = row
    return number, Outgoing(kind, dest, key, bytes(body), {} if headers is None else orjson.loads(headers)), tries


TIDY_S = 60.0
TIDY_ROWS = 1000
TIDIES = ("sweep_claims", "sweep_documents")


class SqlRecords(SqlDocuments):
    """The Records contract as operations of a Batcher: each is a tuple of its kind and what it was given.

    Operations that are asked for without waiting in between may be done in any order.
    """

    local = False
    durable = True
    url: str
    _clock: Clock
    _tidy_at: float

    def _tidy(self, swept: Sequence[Pending[Any]]) -> None:
        """Have what expired dropped now and then, so that a store which nobody sweeps does not grow for ever.

        swept: what the batch just done had of that. Where there may be more of them it goes on at once, a batch of
        others in between.
        """
        now = self._clock.monotonic()
        if any(pending.value == TIDY_ROWS for pending in swept):
            self._tidy_at = now
        if now >= self._tidy_at:
            self._tidy_at = now + TIDY_S
            for kind in TIDIES:
                self._batcher.submit((kind, TIDY_ROWS))

    @property
    def batches(self) -> int:
        """How many batches there were: one round trip or commit each, however many callers shared it."""
        return self._batcher.batches

    def claim(self, ask: ClaimAsk, /) -> Pending[Claim]:
        return self._batcher.submit(("claim", ask))

    def renew(self, held: Sequence[tuple[str, int]], lease_s: float, /) -> Pending[list[bool]]:
        return self._batcher.submit(("renew", tuple(held), lease_s))

    def finish(
        self,
        key: str,
        fence: int,
        state: Literal["done", "failed", "unknown"],
        result: bytes | None,
        ttl_s: float,
        outbox: Sequence[Outgoing] = (),
        /,
    ) -> Pending[bool]:
        return self._batcher.submit(("finish", key, fence, state, result, ttl_s, tuple(outbox)))

    def release(self, key: str, fence: int, /) -> Pending[bool]:
        return self._batcher.submit(("release", key, fence))

    def lookup(self, key: str, /) -> Pending[Claim | None]:
        return self._batcher.submit(("lookup", key))

    def forget(self, key: str, /) -> Pending[bool]:
        return self._batcher.submit(("forget", key))

    def unsettled(self, limit: int = 100, /) -> Pending[list[Claim]]:
        return self._batcher.submit(("unsettled", limit))

    def submit(self, task: Task, /) -> Pending[bool]:
        return self._batcher.submit(("submit", task))

    def claim_tasks(
        self, owner: str, limit: int, lease_s: float, tools: Sequence[str] | None = None, /
    ) -> Pending[list[Work]]:
        return self._batcher.submit(("claim_tasks", owner, limit, lease_s, None if tools is None else list(tools)))

    def claim_task(self, task: Task, owner: str, lease_s: float, /) -> Pending[Work | TaskRow]:
        return self._batcher.submit(("claim_task", task, owner, lease_s))

    def renew_tasks(self, owner: str, held: Sequence[tuple[str, int]], lease_s: float, /) -> Pending[list[str]]:
        return self._batcher.submit(("renew_tasks", owner, tuple(held), lease_s))

    def finish_task(self, finish: Finish, /) -> Pending[bool]:
        return self._batcher.submit(("finish_task", finish))

    def cancel_task(self, task_id: str, /) -> Pending[str]:
        return self._batcher.submit(("cancel_task", task_id))

    def task(self, task_id: str, /) -> Pending[TaskRow | None]:
        return self._batcher.submit(("task", task_id))

    def tasks(
        self,
        *,
        state: str | Sequence[str] | None = None,
        tool: str | None = None,
        tenant: str | None = None,
        user_id: str | None = None,
        session_id: str | None = None,
        since: float | None = None,
        until: float | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> Pending[list[TaskRow]]:
        wanted = Wanted(states_of(state), tool, tenant, user_id, session_id, since, until, after, limit)
        return self._batcher.submit(("tasks", wanted))

    def record_tasks(self, ended: Sequence[tuple[Task, Finish]], /) -> Pending[list[bool]]:
        return self._batcher.submit(("record_tasks", tuple(ended)))

    def count_tasks(self, state: str | Sequence[str] | None = None, /) -> Pending[dict[str, int]]:
        return self._batcher.submit(("count_tasks", OPEN if state is None else states_of(state)))

    def crowd(self, limit: int = 1000, /) -> Pending[list[tuple[str, str, int]]]:
        return self._batcher.submit(("crowd", limit))

    def drop_tasks(self, ended_s: float, limit: int = 1000, /) -> Pending[int]:
        return self._batcher.submit(("drop_tasks", ended_s, limit))

    def put_outbox(self, messages: Sequence[Outgoing], /) -> Pending[None]:
        return self._batcher.submit(("put_outbox", tuple(messages)))

    def take_outbox(
        self, limit: int, lease_s: float, kinds: Sequence[str] | None = None, /
    ) -> Pending[list[tuple[int, Outgoing, int]]]:
        return self._batcher.submit(("take_outbox", limit, lease_s, None if kinds is None else list(kinds)))

    def count_outbox(self, kinds: Sequence[str] | None = None, /) -> Pending[int]:
        return self._batcher.submit(("count_outbox", None if kinds is None else list(kinds)))

    def sent(self, ids: Sequence[int], /) -> Pending[None]:
        return self._batcher.submit(("sent", list(ids)))

    def defer_outbox(self, ids: Sequence[int], due_in_s: float, /) -> Pending[None]:
        return self._batcher.submit(("defer_outbox", list(ids), due_in_s))

    def bury(
        self,
        *,
        reason: str,
        payload: bytes,
        src: tuple[str, int, int] | None = None,
        task_id: str | None = None,
        error: str = "",
    ) -> Pending[int]:
        return self._batcher.submit(("bury", reason, payload, src, task_id, error))

    def dead(self, limit: int = 100, after: int | None = None, /) -> Pending[list[dict[str, Any]]]:
        return self._batcher.submit(("dead", limit, after))

    def redrive(self, letter_id: int, task_id: str, /) -> Pending[bool]:
        return self._batcher.submit(("redrive", letter_id, task_id))

    def sweep(self, limit: int = 1000, /) -> Pending[dict[str, int]]:
        return self._batcher.submit(("sweep", limit))

    def ping(self) -> Pending[None]:
        return self._batcher.submit(("ping",))
