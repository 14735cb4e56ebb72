"""Derived keys: one for each purpose, from secret_key and from each of secret_key_previous; none serves two ends."""

from __future__ import annotations

import hmac
from collections.abc import Callable

from toolpost.calls.errors import ConfigurationError
from toolpost.engine.settings import ExecutorConfig
from toolpost.security.vault import SHORTEST, keys_in


def derived_keys(config: ExecutorConfig, opened: Callable[[str], str], purpose: str) -> list[bytes]:
    """The keys of 32 bytes for a purpose, the newest first; empty where there is no secret_key (HKDF-SHA256).

    opened gives a setting's text, or what the reference stands for that it is. Raises ConfigurationError for a key that
    could be guessed, SecretUnavailableError for one that cannot be had.
    """
    if config.secret_key is None:
        return []
    previous = config.secret_key_previous
    earlier = keys_in(opened(previous.get_secret_value())) if previous is not None else []
    secrets = dict.fromkeys([opened(config.secret_key.get_secret_value()), *earlier])
    return [_derived(secret, purpose) for secret in secrets]


def _derived(secret: str, purpose: str) -> bytes:
    if len(secret) < SHORTEST:
        raise ConfigurationError(
            f"secret_key, and each of secret_key_previous, must be random and have {SHORTEST} characters at least"
        )
    root = hmac.digest(b"toolpost", secret.encode("utf-8", "surrogatepass"), "sha256")
    return hmac.digest(root, b"toolpost " + purpose.encode() + b"\x01", "sha256")
