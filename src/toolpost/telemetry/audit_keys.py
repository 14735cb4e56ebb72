"""The keys of the audit log, derived from secret_key: one for the chain, one for the digests of values."""

from __future__ import annotations

import hmac
import os
from collections.abc import Iterable, Mapping
from typing import NamedTuple

_ONE_BLOCK = b"\x01"


class AuditKey(NamedTuple):
    """What rows are written with. id names the key in each row, "" where there is none; it says nothing of the key."""

    id: str
    chain: bytes
    values: bytes

    def __repr__(self) -> str:
        return f"AuditKey({self.id!r})"


def audit_key(secret: str | None) -> AuditKey:
    """The keys that a secret_key gives (HKDF-SHA256, each label its own key).

    Without a secret the chain has no key, and digests of values have a random one: they can be compared within this
    process's rows and guessed by nobody, also not by who writes the log.
    """
    if not secret:
        return AuditKey("", b"", os.urandom(32))
    root = hmac.digest(b"toolpost", secret.encode("utf-8", "surrogatepass"), "sha256")
    return AuditKey(_derived(root, "audit id").hex()[:12], _derived(root, "audit"), _derived(root, "audit values"))


def _derived(root: bytes, label: str) -> bytes:
    return hmac.digest(root, label.encode() + _ONE_BLOCK, "sha256")


def chain_keys(secrets: Iterable[str]) -> Mapping[str, bytes]:
    """The chain's key of each secret, by the id that rows name it with."""
    keys = (audit_key(secret) for secret in secrets if secret)
    return {key.id: key.chain for key in keys}
