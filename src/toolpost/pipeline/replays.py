"""Replays: how results and failures of keyed calls are written for those who ask again."""

from __future__ import annotations

import logging
from typing import Any, NoReturn

import orjson

from toolpost.calls import errors
from toolpost.calls.errors import (
    EngineError,
    OperationError,
    OutputValidationError,
    StoreUnavailableError,
    ToolError,
    ToolExecutionError,
)
from toolpost.calls.redaction import scrub_message
from toolpost.calls.result import Failure
from toolpost.pipeline.answers import answered
from toolpost.pipeline.encode import to_json
from toolpost.pipeline.invocation import Invocation
from toolpost.pipeline.services import Services
from toolpost.stores import Claims

logger = logging.getLogger("toolpost")

INLINE_MAX_BYTES = 65_536
"""Larger results go to Blobs, if those live as long as the claim (the inline bound of the worker's results)."""
JSON, BLOB = b"J", b"B"


def written(value: Any, inv: Invocation) -> bytes | None:
    """A result as JSON; None, with a warning, for what has none: the call then counts as done, without a result."""
    try:
        return orjson.dumps(to_json(value))
    except (OutputValidationError, TypeError) as error:
        inv.warnings = [*(inv.warnings or ()), f"the result cannot be given again: {error}"]
        return None


async def kept_value(value: Any, inv: Invocation, services: Services, claims: Claims) -> bytes | None:
    """A result as bytes to keep, None for what has no JSON form."""
    text = written(value, inv)
    if text is None:
        return None
    if len(text) > INLINE_MAX_BYTES and (services.blobs.durable or claims.local):
        try:
            digest: str = await answered(services.blobs.put(text), inv, services.clock)
            return BLOB + digest.encode()
        except StoreUnavailableError as error:
            logger.warning("a result of %d bytes is kept beside its claim: %s", len(text), error.message)
    return JSON + text


async def value_of(kept: bytes, inv: Invocation, services: Services) -> Any:
    """The value that kept_value wrote. Raises StoreUnavailableError where its blob cannot be had."""
    if kept[:1] == JSON:
        return orjson.loads(kept[1:])
    digest = kept[1:].decode()
    text = await answered(services.blobs.get(digest), inv, services.clock)
    if text is None:
        raise StoreUnavailableError(f"the result of the earlier call is gone: there is no blob {digest}")
    return orjson.loads(text)


def kept_failure(raised: BaseException) -> bytes:
    """A failure as bytes to keep; its text without what looks like a secret."""
    if isinstance(raised, ToolExecutionError):
        error = raised
    else:
        error = OperationError(f"{type(raised).__name__}: {scrub_message(str(raised)[:2000])}")
    return orjson.dumps(Failure.of(error).to_dict(), default=str, option=orjson.OPT_NON_STR_KEYS)


def raise_kept(kept: bytes | None) -> NoReturn:
    """Raise the failure that kept_failure wrote, of its own class where that is one of ours."""
    said: dict[str, Any] = orjson.loads(kept) if kept else {"message": "the earlier call failed", "code": "tool_failed"}
    kind = _FAILURES.get(said["code"], ToolError)
    error = ToolError(said["message"], code=said["code"]) if kind is ToolError else kind(said["message"])
    error.retryable = said.get("retryable", False)
    error.details = {**said.get("details", {}), "replayed": True}
    error.outcome = said.get("outcome", "ran")
    error.retry_after_s = said.get("retry_after_s")
    raise error


_FAILURES: dict[str, type[ToolExecutionError]] = {
    kind.code: kind
    for kind in vars(errors).values()
    if isinstance(kind, type)
    and issubclass(kind, ToolExecutionError)
    and not issubclass(kind, (EngineError, ToolError))
    and "code" in vars(kind)
}
