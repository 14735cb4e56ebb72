"""WaitingRoom: which questions wait for a person, and how many may; a small document each, gone with its question.

What is over is kept for a week in documents of up to 64 KiB. Those are not looked through to count or list what waits.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable
from typing import Final, Protocol, TypeVar

from toolpost.calls.clock import Clock
from toolpost.calls.errors import EngineError, RateLimitError
from toolpost.security.approval_records import KIND, ApprovalRecord, key_of, record_of
from toolpost.stores import Answer, Document, Records

logger = logging.getLogger("toolpost")
T = TypeVar("T")

WAITING: Final = "approval_waiting"
"""Kept by the key of the question's record: its tool as the state, when it was asked as the body."""

MAX_OF_CALLER: Final = 100
MAX_OF_TOOL: Final = 500
MAX_OF_TENANT: Final = 1000
"""So many questions may wait for a person at a time. Calls that ask at the same moment may pass them by a few."""
MAX_LISTED: Final = 10_000
PAGE: Final = 500


class Had(Protocol):
    """How to come by a store's answer: awaiting it, or waiting for it in this thread."""

    def __call__(self, answer: Answer[T], /) -> Awaitable[T]: ...


class WaitingRoom:
    """The questions in one Records that nobody has decided, and whose time is not over."""

    def __init__(self, records: Records, clock: Clock) -> None:
        self._records, self._clock = records, clock

    async def add(self, record: ApprovalRecord, had: Had) -> None:
        """Count a question from now on."""
        waiting = Document(
            WAITING,
            key_of(record.subject),
            0,
            str(record.asked_at).encode(),
            tenant=record.tenant or "",
            user_id=record.user_id or "",
            state=record.tool,
            expires_at=record.expires_at,
        )
        await had(self._records.put_document(waiting))

    async def drop(self, record: ApprovalRecord, had: Had) -> None:
        """Count a question no more, as somebody has decided it. What is decided stays so, whatever the store says."""
        try:
            await had(self._records.drop_document(WAITING, key_of(record.subject)))
        except EngineError as error:
            logger.warning("a question that is decided counts as one that waits until it ends: %s", error.message)

    async def check_room(self, draft: ApprovalRecord, max_pending: int, had: Had) -> None:
        """Raise RateLimitError where too many wait for one more of this caller and tool."""
        waiting = await had(self._records.documents(WAITING, tenant=draft.tenant or "", limit=MAX_OF_TENANT))
        mine = [one for one in waiting if one.user_id == (draft.user_id or "")]
        of_tool = [one for one in waiting if one.state == draft.tool]
        for found, most, whose in (
            (sum(one.state == draft.tool for one in mine), max_pending, "of this caller and tool"),
            (len(mine), MAX_OF_CALLER, "of this caller"),
            (len(of_tool), MAX_OF_TOOL, "of this tool"),
            (len(waiting), MAX_OF_TENANT, "of this tenant"),
        ):
            if found >= most:
                raise RateLimitError(
                    f"{found} calls {whose} wait for a person's approval, and no more are taken; have some decided, "
                    f"or make one of those calls again",
                    details={"pending": found},
                )

    async def oldest(self, tenant: str | None, limit: int, had: Had) -> list[ApprovalRecord]:
        """The questions that have waited longest; of one tenant, or of all."""
        waiting: list[tuple[float, str]] = []
        after = None
        while len(waiting) < MAX_LISTED:
            page = await had(self._records.documents(WAITING, tenant=tenant, after=after, limit=PAGE))
            waiting.extend((float(one.body), one.key) for one in page)
            if len(page) < PAGE:
                break
            after = page[-1].key
        found: list[ApprovalRecord] = []
        for _, key in sorted(waiting):
            document = await had(self._records.document(KIND, key))
            record = None if document is None else record_of(document.body, document.version)
            if record is not None and record.standing(self._clock.now()) == "pending":
                found.append(record)
            if len(found) >= limit:
                break
        return found


__all__ = ["MAX_LISTED", "Had", "WaitingRoom"]
