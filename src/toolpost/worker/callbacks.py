"""Callbacks: who may be told how a call ended, and the message that tells it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

from toolpost.calls.call import Caller
from toolpost.calls.errors import EgressDeniedError, InputValidationError, NotSupportedError
from toolpost.security.egress_urls import Target
from toolpost.stores import Outgoing
from toolpost.worker.cloudevents import STRUCTURED, report_event, rfc3339
from toolpost.worker.keeping import dumps
from toolpost.worker.reports import CallReport

if TYPE_CHECKING:
    from toolpost.engine.executor import ToolExecutor

KIND: Final = "callback"
"""Of messages in the outbox."""
MAX_BODY: Final = 262_144
"""Bytes of a callback; of a larger one what is long is left out, and is there to be asked for."""
MAX_PART: Final = 4096
_TRACE: Final = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}\Z")
_PLAIN: Final = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")


async def check_callback(executor: ToolExecutor, url: str, caller: Caller) -> None:
    """Refuse what could not be told, or not safely, before a call is accepted with it.

    Raises NotSupportedError where there is no secret_key to sign with, InputValidationError for an address that may not
    be called or that its receiver has ended, StoreUnavailableError.
    """
    from toolpost.worker.delivery_log import DeliveryLog

    if executor.config.secret_key is None:
        raise NotSupportedError(
            "callbacks are signed, and there is no secret_key to sign with: set secret_key (`toolpost serve` makes one "
            "in its data_directory)"
        )
    if find_spec("httpx") is None:
        raise NotSupportedError("callbacks need the package httpx; install toolpost[serve]")
    try:
        callback_target(executor, url)
    except EgressDeniedError as error:
        raise _unusable(f"callback cannot be called: {error.message}") from error
    if await DeliveryLog(executor).is_disabled(url, caller.tenant, caller.user_id):
        raise _unusable(
            "callback is disabled, as its receiver answered 410 Gone; POST /v1/webhooks/endpoints/enable takes it up "
            "again"
        )


def callback_target(executor: ToolExecutor, url: str) -> Target:
    """Where a callback goes: https, or http to what egress_private opens. Raises EgressDeniedError.

    What its name leads to is checked when it is connected to, each time.
    """
    target = executor.egress.reach().target(url)
    if target.scheme != "https" and not executor.egress.opens(target.host, target.port):
        raise EgressDeniedError(
            "it must be https://, but for hosts that the setting egress_private names",
            details={"rule": "egress.scheme", "host": target.host, "port": target.port},
        )
    return target


def _unusable(message: str) -> InputValidationError:
    problem = {"path": "/callback", "loc": ["callback"], "parameter": "callback", "type": "callback", "msg": message}
    return InputValidationError(message, problems=[problem])


def callback_message(executor: ToolExecutor, report: CallReport, shown: Mapping[str, Any]) -> Outgoing:
    """The message that tells how a call ended; it goes into the outbox with the finish of the call.

    shown is the report's JSON. Its id hangs on the call alone, so that a receiver knows one that comes twice.
    """
    if report.callback is None:
        raise ValueError(f"call {report.call_id} has no callback")
    message_id, at = message_id_of(report.call_id), report.finished_at or executor.clock.now()
    make = _as_event if executor.config.cloudevents else _as_webhook
    body = make(executor, report, message_id, at, shown)
    if len(body) > MAX_BODY:
        body = make(executor, report, message_id, at, _shortened(shown))
    headers = {
        "id": message_id,
        "call": report.call_id,
        "type": f"call.{report.state}",
        "content-type": STRUCTURED if executor.config.cloudevents else "application/json",
        "tenant": report.caller.tenant,
        "user": report.caller.user_id,
        "traceparent": _trace_of(report),
    }
    given = {name: value for name, value in headers.items() if value is not None}
    return Outgoing(KIND, report.callback, report.call_id, body, given)


def message_id_of(call_id: str) -> str:
    """The webhook-id of what tells how a call ended; without full stops, by the specification."""
    return f"msg_{call_id if _PLAIN.match(call_id) else hashlib.sha256(call_id.encode('utf-8', 'replace')).hexdigest()}"


def _as_webhook(
    executor: ToolExecutor, report: CallReport, message_id: str, at: float, shown: Mapping[str, Any]
) -> bytes:
    told = {"type": f"call.{report.state}", "timestamp": rfc3339(at), "data": shown}
    return dumps(told)


def _as_event(
    executor: ToolExecutor, report: CallReport, message_id: str, at: float, shown: Mapping[str, Any]
) -> bytes:
    """In structured mode, as a signature covers the body and no headers but the three."""
    event = report_event(
        report.state,
        report.call_id,
        shown,
        source=event_source(executor),
        event_id=message_id,
        at=at,
        trace=_trace_of(report),
    )
    return dumps(event.to_json())


def _trace_of(report: CallReport) -> str | None:
    """The traceparent of a call, where it is one: it becomes a header, and callers may have written anything."""
    return report.trace if report.trace is not None and _TRACE.match(report.trace) else None


def event_source(executor: ToolExecutor) -> str:
    """The source of events: public_url, or a name for all that have none."""
    return (executor.config.public_url or "/toolpost").rstrip("/") or "/toolpost"


def _shortened(shown: Mapping[str, Any]) -> dict[str, Any]:
    """Without what is long, and with the names of that; GET /v1/calls/{id} has it all."""
    short: dict[str, Any] = {}
    left_out = []
    for name, value in shown.items():
        if len(dumps(value)) <= MAX_PART:
            short[name] = value
        else:
            left_out.append(name)
    return {**short, "left_out": left_out}
