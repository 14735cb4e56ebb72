"""What both SQL stores share for documents and the audit chain: the operations, statement texts, rows as values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from toolpost.calls.errors import StoreUnavailableError
from toolpost.stores.documents import NO_HEAD, AuditHead, AuditRow, Document, link
from toolpost.stores.pending import Batcher, Pending

DOCUMENT_COLUMNS = ", ".join(Document._fields)
DOCUMENTS = f"select {DOCUMENT_COLUMNS} from toolpost_documents"
HEAD_COLUMNS = "seq, hash, start_seq, start_hash"
HEAD = f"select {HEAD_COLUMNS} from toolpost_audit_head"


def document_of(row: Sequence[Any]) -> Document:
    """A row of DOCUMENTS."""
    document = Document._make(row)
    return document._replace(body=bytes(document.body))


def audit_row(row: Sequence[Any]) -> AuditRow:
    """A row of seq, body, hash."""
    seq, body, digest = row
    return AuditRow(seq, bytes(body), bytes(digest))


def head_of(row: Sequence[Any] | None) -> AuditHead:
    """A row of HEAD, or NO_HEAD."""
    if row is None:
        return NO_HEAD
    seq, digest, start_seq, start_digest = row
    return AuditHead(seq, bytes(digest), start_seq, bytes(start_digest))


def lengthened(
    head: AuditHead, pendings: Sequence[Pending[Any]]
) -> tuple[list[tuple[int, bytes, bytes]], list[AuditHead]]:
    """The rows that append_audit operations add behind head, and where the chain stands after each operation.

    Raises StoreUnavailableError where there is no head: nothing is added to a chain that somebody broke.
    """
    if head == NO_HEAD:
        raise StoreUnavailableError("the head of the audit chain is gone; run: toolpost audit verify")
    rows: list[tuple[int, bytes, bytes]] = []
    heads = []
    seq, before = head.seq, head.hash
    for pending in pendings:
        _, bodies, key = pending.op
        for body in bodies:
            seq += 1
            before = link(before, seq, body, key)
            rows.append((seq, body, before))
        heads.append(head._replace(seq=seq, hash=before))
    return rows, heads


class SqlDocuments:
    """Documents and the audit chain as operations of a Batcher; see SqlRecords."""

    _batcher: Batcher

    def put_document(self, document: Document, expect: int | None = None, /) -> Pending[int]:
        return self._batcher.submit(("put_document", document, expect))

    def document(self, kind: str, key: str, /) -> Pending[Document | None]:
        return self._batcher.submit(("document", kind, key))

    def documents(
        self,
        kind: str,
        *,
        tenant: str | None = None,
        user_id: str | None = None,
        state: str | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> Pending[list[Document]]:
        only = {"tenant": tenant, "user_id": user_id, "state": state}
        return self._batcher.submit(("documents", kind, only, after, limit))

    def drop_document(self, kind: str, key: str, expect: int | None = None, /) -> Pending[bool]:
        return self._batcher.submit(("drop_document", kind, key, expect))

    def append_audit(self, bodies: Sequence[bytes], key: bytes = b"", /) -> Pending[AuditHead]:
        return self._batcher.submit(("append_audit", tuple(bodies), key))

    def audit_rows(self, after: int = 0, limit: int = 1000, /) -> Pending[list[AuditRow]]:
        return self._batcher.submit(("audit_rows", after, limit))

    def audit_head(self, /) -> Pending[AuditHead]:
        return self._batcher.submit(("audit_head",))

    def rotate_audit(self, through: int, /) -> Pending[int]:
        return self._batcher.submit(("rotate_audit", through))


def query(kind: str, only: dict[str, str | None], after: str | None, mark: str) -> tuple[str, list[Any]]:
    """The conditions of documents(), and their values. mark: how a value is written in the statement."""
    given = {"kind": kind, **{name: value for name, value in only.items() if value is not None}}
    conditions = [f"{name} = {mark}" for name in given]
    values: list[Any] = list(given.values())
    if after is not None:
        conditions.append(f"key > {mark}")
        values.append(after)
    return " and ".join(conditions), values
