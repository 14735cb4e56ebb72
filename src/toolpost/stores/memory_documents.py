"""Documents and the audit chain in memory."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Sequence

from toolpost.calls.clock import SYSTEM_CLOCK, Clock
from toolpost.stores.documents import GENESIS, AuditHead, AuditRow, Document, link
from toolpost.stores.memory_mail import MemoryMail
from toolpost.stores.standing import checked, checked_document

SWEPT = 1000
"""So many documents more than there were after the last time, or twice as many, have the expired ones dropped."""


class MemoryDocuments(MemoryMail):
    """Documents by kind and key. Of the audit log the oldest rows go when there are more than max_letters of them."""

    def __init__(self, clock: Clock = SYSTEM_CLOCK, max_letters: int = 10_000) -> None:
        super().__init__(clock, max_letters)
        self._documents: dict[tuple[str, str], Document] = {}
        self._documents_limit = SWEPT
        self._versions = itertools.count(1)
        self._audit: deque[AuditRow] = deque()
        self._audit_start = (0, GENESIS)

    def put_document(self, document: Document, expect: int | None = None, /) -> int:
        checked_document(document)
        now = self._clock.now()
        place = (document.kind, document.key)
        with self._lock:
            there = self._living(place, now)
            if expect is not None and expect != (there.version if there is not None else 0):
                return 0
            version = next(self._versions)
            created_at = there.created_at if there is not None else now
            self._documents[place] = document._replace(version=version, created_at=created_at, updated_at=now)
            if len(self._documents) > self._documents_limit:
                self._drop_old_documents(now, len(self._documents))
                self._documents_limit = 2 * len(self._documents) + SWEPT
            return version

    def document(self, kind: str, key: str, /) -> Document | None:
        checked(kind=kind, key=key)
        with self._lock:
            return self._living((kind, key), self._clock.now())

    def documents(
        self,
        kind: str,
        *,
        tenant: str | None = None,
        user_id: str | None = None,
        state: str | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> list[Document]:
        checked(kind=kind, tenant=tenant, user_id=user_id, state=state, after=after)
        now = self._clock.now()
        with self._lock:
            found = [
                one
                for place in list(self._documents)
                if place[0] == kind
                and (one := self._living(place, now)) is not None
                and (tenant is None or one.tenant == tenant)
                and (user_id is None or one.user_id == user_id)
                and (state is None or one.state == state)
                and (after is None or one.key > after)
            ]
        return sorted(found, key=lambda one: one.key)[:limit]

    def drop_document(self, kind: str, key: str, expect: int | None = None, /) -> bool:
        checked(kind=kind, key=key)
        with self._lock:
            there = self._living((kind, key), self._clock.now())
            if there is None or (expect is not None and there.version != expect):
                return False
            del self._documents[kind, key]
            return True

    def _drop_old_documents(self, now: float, limit: int) -> int:
        """Drop documents whose time is over; how many."""
        old = (place for place, one in self._documents.items() if one.expires_at is not None and one.expires_at <= now)
        chosen = list(itertools.islice(old, limit))
        for place in chosen:
            del self._documents[place]
        return len(chosen)

    def _living(self, place: tuple[str, str], now: float) -> Document | None:
        there = self._documents.get(place)
        if there is not None and there.expires_at is not None and there.expires_at <= now:
            del self._documents[place]
            return None
        return there

    def append_audit(self, bodies: Sequence[bytes], key: bytes = b"", /) -> AuditHead:
        with self._lock:
            head = self._audit_head()
            seq, before = head.seq, head.hash
            for body in bodies:
                seq += 1
                before = link(before, seq, body, key)
                self._audit.append(AuditRow(seq, body, before))
            while len(self._audit) > self._max_letters:
                gone = self._audit.popleft()
                self._audit_start = (gone.seq, gone.hash)
            return self._audit_head()

    def audit_rows(self, after: int = 0, limit: int = 1000, /) -> list[AuditRow]:
        with self._lock:
            start = max(0, after - self._audit_start[0])
            return list(itertools.islice(self._audit, start, start + limit))

    def audit_head(self, /) -> AuditHead:
        with self._lock:
            return self._audit_head()

    def _audit_head(self) -> AuditHead:
        newest = (self._audit[-1].seq, self._audit[-1].hash) if self._audit else self._audit_start
        return AuditHead(*newest, *self._audit_start)

    def rotate_audit(self, through: int, /) -> int:
        with self._lock:
            taken = 0
            while self._audit and self._audit[0].seq <= through:
                gone = self._audit.popleft()
                self._audit_start = (gone.seq, gone.hash)
                taken += 1
            return taken
