"""Vault: seals what is kept at rest, so that only who has secret_key reads it, and only in the place it was sealed for.

AES-256-GCM with the place (kind, key, tenant, user and so on) as associated data, rather than Fernet, which has none:
a row that is copied over another user's row, or whose columns are changed, does not open. Each sealed value begins with
the version of this format and the id of its key, so that with several keys the right one is known at once.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

import orjson

from toolpost.calls.errors import ConfigurationError, SecretUnavailableError

VERSION = b"\x01"
ID_BYTES = 8
NONCE_BYTES = 12
SHORTEST = 16


class Vault:
    """Seals with the first key, opens with each. Keys are texts; what is used is derived from them (HKDF, SHA-256)."""

    __slots__ = ("_by_id", "_newest")

    def __init__(self, keys: Iterable[str | bytes]) -> None:
        self._by_id: dict[bytes, Any] = {}
        self._newest = b""
        for text in keys:
            key_id, cipher = _derived(_checked(text))
            self._newest = self._newest or key_id
            self._by_id.setdefault(key_id, cipher)
        if not self._by_id:
            raise ConfigurationError("a vault needs a key: set secret_key")

    @classmethod
    def random(cls) -> Vault:
        """One whose key nobody has, for what does not outlive the process."""
        return cls([os.urandom(32)])

    def __repr__(self) -> str:
        return f"Vault({len(self._by_id)} keys)"

    def seal(self, plain: bytes, *place: str) -> bytes:
        """plain, sealed with the newest key for this place."""
        head, nonce = VERSION + self._newest, os.urandom(NONCE_BYTES)
        sealed: bytes = self._by_id[self._newest].encrypt(nonce, plain, _bound(head, place))
        return head + nonce + sealed

    def open(self, sealed: bytes, *place: str) -> bytes:
        """What was sealed for this place. Raises SecretUnavailableError for everything else."""
        from cryptography.exceptions import InvalidTag

        head = sealed[: 1 + ID_BYTES]
        if len(sealed) < len(head) + NONCE_BYTES + 16 or not head.startswith(VERSION):
            raise SecretUnavailableError(f"the {place[0]} in the store is not sealed by this version of toolpost")
        cipher = self._by_id.get(head[1:])
        if cipher is None:
            raise SecretUnavailableError(
                f"the {place[0]} in the store is sealed with another key: add the secret_key of that time to "
                "secret_key_previous"
            )
        nonce, rest = sealed[len(head) : len(head) + NONCE_BYTES], sealed[len(head) + NONCE_BYTES :]
        try:
            plain: bytes = cipher.decrypt(nonce, rest, _bound(head, place))
        except InvalidTag:
            raise SecretUnavailableError(
                f"the {place[0]} in the store was altered, or belongs elsewhere: it is not used"
            ) from None
        return plain

    def is_stale(self, sealed: bytes) -> bool:
        """Whether it is sealed with an earlier key than the newest."""
        return not sealed.startswith(VERSION + self._newest)


def keys_in(previous: str | Sequence[str]) -> list[str]:
    """The keys of secret_key_previous: between commas, or, where one has a comma in it, as a JSON list."""
    if not isinstance(previous, str):
        return list(previous)
    if not previous.lstrip().startswith("["):
        return [key.strip() for key in previous.split(",") if key.strip()]
    try:
        keys = orjson.loads(previous)
    except orjson.JSONDecodeError:
        keys = None
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise ConfigurationError("secret_key_previous begins with '[', and is no JSON list of texts")
    return keys


def _checked(text: str | bytes) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    if len(data) < SHORTEST:
        raise ConfigurationError(
            f"secret_key, and each of secret_key_previous, must be random and have {SHORTEST} characters at least; "
            "make one with: "
            "python -c 'import secrets; print(secrets.token_urlsafe(32))'"
        )
    return data


def _derived(secret: bytes) -> tuple[bytes, Any]:
    """The id of a key, which tells nothing about it, and its cipher."""
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF
    except ImportError:
        raise ConfigurationError("encryption at rest needs the package cryptography; install toolpost[auth]") from None
    made = HKDF(SHA256(), length=32 + ID_BYTES, salt=None, info=b"toolpost vault v1").derive(secret)
    return made[32:], AESGCM(made[:32])


def _bound(head: bytes, place: Iterable[str]) -> bytes:
    """The associated data: each part begins with its length, so that no two places look the same."""
    parts = [part.encode(errors="surrogatepass") for part in place]
    return head + b"".join(len(part).to_bytes(4, "big") + part for part in parts)
