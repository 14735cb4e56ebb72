"""Documents: small named rows that change by compare-and-set (grants, flows, approvals, API keys); and the audit chain.

A version is never given twice for one kind and key, also not after the document was dropped: what was decided about one
document is never taken for a decision about another. Expired documents are as good as none, and swept.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import NamedTuple


class Document(NamedTuple):
    """A document as it stands. body is bytes of the kind's own making; times are wall time in seconds."""

    kind: str
    key: str
    version: int
    body: bytes
    tenant: str = ""
    user_id: str = ""
    state: str = ""
    created_at: float = 0.0
    updated_at: float = 0.0
    expires_at: float | None = None


class AuditRow(NamedTuple):
    """One row of the audit log. seq counts from 1 without gaps; hash is link() over the row before it."""

    seq: int
    body: bytes
    hash: bytes


class AuditHead(NamedTuple):
    """The newest row's seq and hash (0 and GENESIS for none), and those of the last row that rotation took away."""

    seq: int
    hash: bytes
    start_seq: int
    start_hash: bytes


GENESIS = bytes(32)
"""What the first row's hash is made over."""


NO_HEAD = AuditHead(0, b"", 0, b"")
"""What is answered where somebody took the head of a chain away."""


def link(before: bytes, seq: int, body: bytes, key: bytes = b"") -> bytes:
    """The hash of a row: SHA-256 over the hash before it, its number and its body; with a key, the HMAC of these.

    Without a key the chain shows accidents and careless edits; whoever can rewrite all rows can make it anew. With one
    only who has the key can.
    """
    text = before + seq.to_bytes(8, "big") + body
    return hmac.digest(key, text, "sha256") if key else hashlib.sha256(text).digest()
