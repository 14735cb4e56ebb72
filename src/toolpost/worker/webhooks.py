"""Webhooks: signatures of callbacks after the Standard Webhooks specification, for who sends and who receives them."""

from __future__ import annotations

import base64
import binascii
import hmac
import re
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import orjson

from toolpost.calls.errors import ConfigurationError, WebhookVerificationError

if TYPE_CHECKING:
    from toolpost.engine.executor import ToolExecutor

ID: Final = "webhook-id"
TIMESTAMP: Final = "webhook-timestamp"
SIGNATURE: Final = "webhook-signature"
PREFIX: Final = "whsec_"
TOLERANCE_S: Final = 300.0
"""How far the time of a callback and that of its receiver may lie apart, as in the specification's own libraries."""
SHORTEST: Final = 24
"""Bytes that a secret has at least, by the specification."""
_TIMESTAMP: Final = re.compile(r"[0-9]{1,12}\Z", re.ASCII)
_ID: Final = re.compile(r"[!-\-/-~]{1,256}\Z")
"""Anything visible but a full stop, which parts id, time and body in what is signed."""


# -- who receives ------------------------------------------------------------------------------------------------------


def verify_webhook(
    body: bytes | str,
    headers: Mapping[str, str],
    secrets: str | Sequence[str],
    *,
    tolerance_s: float = TOLERANCE_S,
    now: float | None = None,
) -> Any:
    """The JSON of a callback whose signature is good. body is what came, byte for byte, before anything parsed it.

    headers may be written in any case. secrets are one or several "whsec_..."; one that signed is enough, so that
    during a rotation the old and the new one are both given. Raises WebhookVerificationError for what is not signed
    with one of them, or not within tolerance_s of now (wall time in seconds; the machine's). Act on a webhook-id once:
    a callback whose answer was lost comes again.
    """
    keys = [secret_bytes(secret) for secret in ([secrets] if isinstance(secrets, str) else secrets)]
    if not keys:
        raise ConfigurationError("verify_webhook needs a secret, as GET /v1/webhooks/secrets gives it")
    data = body.encode() if isinstance(body, str) else bytes(body)
    named = {name.lower(): value for name, value in headers.items() if name.lower() in (ID, TIMESTAMP, SIGNATURE)}
    missing = [name for name in (ID, TIMESTAMP, SIGNATURE) if not named.get(name)]
    if missing:
        raise WebhookVerificationError(f"the callback has no header {missing[0]}, so nobody signed it")
    _check_time(named[TIMESTAMP], tolerance_s, time.time() if now is None else now)
    good = [_signature(key, named[ID], named[TIMESTAMP], data).encode() for key in keys]
    given = [part.encode("utf-8", "replace") for part in named[SIGNATURE].split(" ") if part]
    # Each pair is compared, so that how long it takes says nothing of which would have been right.
    matches = [hmac.compare_digest(one, other) for one in good for other in given]
    if not any(matches):
        raise WebhookVerificationError("the callback is not signed with this secret, or was altered on its way")
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        raise WebhookVerificationError("the callback is signed, but its body is no JSON") from None


def secret_bytes(secret: str) -> bytes:
    """The key that a secret is the text of. Raises ConfigurationError, which does not show it."""
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError, AttributeError):
        key = b""
    if len(key) < SHORTEST:
        raise ConfigurationError(f"a webhook's secret is {PREFIX!r} and {SHORTEST} bytes or more in base64")
    return key


def _check_time(text: str, tolerance_s: float, now: float) -> None:
    if not _TIMESTAMP.match(text):
        raise WebhookVerificationError(f"{TIMESTAMP} must be seconds since 1970, got {text!r:.40}")
    apart_s = now - int(text)
    if abs(apart_s) > tolerance_s:
        when = f"{apart_s:.0f} s ago" if apart_s > 0 else f"{-apart_s:.0f} s from now"
        raise WebhookVerificationError(
            f"the callback was signed {when}, and {tolerance_s:g} s are allowed: it may be an old one sent again, or "
            "one of the two clocks is wrong"
        )


# -- who sends ---------------------------------------------------------------------------------------------------------


def signed_headers(keys: Sequence[bytes], message_id: str, at: float, body: bytes) -> dict[str, str]:
    """The three headers of a message that is sent now; one signature for each key, the newest first."""
    if not _ID.match(message_id):
        raise ValueError(f"a message's id is visible ASCII without full stops, got {message_id!r:.80}")
    timestamp = str(int(at))
    signatures = " ".join(_signature(key, message_id, timestamp, body) for key in keys)
    return {ID: message_id, TIMESTAMP: timestamp, SIGNATURE: signatures}


def _signature(key: bytes, message_id: str, timestamp: str, body: bytes) -> str:
    text = b".".join((message_id.encode("utf-8", "replace"), timestamp.encode(), body))
    return f"v1,{base64.b64encode(hmac.digest(key, text, 'sha256')).decode()}"


def webhook_keys(executor: ToolExecutor, tenant: str | None, user_id: str | None) -> list[bytes]:
    """The keys that sign the callbacks of a tenant, or of a user who has none: newest first; none without secret_key.

    They are derived from secret_key and who owns them, so that nobody who knows his own can make another's. Raises
    ConfigurationError and SecretUnavailableError for a secret_key that is of no use.
    """
    owner = _owner(tenant, user_id)
    return [hmac.digest(key, owner, "sha256") for key in executor.derived_keys("webhooks")]


def webhook_secrets(executor: ToolExecutor, tenant: str | None, user_id: str | None) -> list[str]:
    """The same as receivers are given them: "whsec_..." for each."""
    return [f"{PREFIX}{base64.b64encode(key).decode()}" for key in webhook_keys(executor, tenant, user_id)]


def _owner(tenant: str | None, user_id: str | None) -> bytes:
    if tenant:
        return b"tenant " + tenant.encode("utf-8", "surrogatepass")
    return b"user " + user_id.encode("utf-8", "surrogatepass") if user_id else b"nobody"
