"""CloudEvents at POST /v1/calls: the calls that they carry, and answers as events for those who want them so."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final

import orjson

from toolpost.calls.errors import InputValidationError
from toolpost.transports.http_bodies import read_json
from toolpost.transports.http_problems import Answer, HttpRefusal
from toolpost.transports.wire import detect_format
from toolpost.worker.callbacks import event_source
from toolpost.worker.cloudevents import BATCH, STRUCTURED, CloudEvent, report_event

if TYPE_CHECKING:
    from starlette.responses import Response

    from toolpost.transports.http_calling import Asking
    from toolpost.transports.http_routes import Door

_OPTIONS: Final = orjson.OPT_NON_STR_KEYS


# -- what comes --------------------------------------------------------------------------------------------------------


def payload_of(asking: Asking) -> tuple[Any, str | None]:
    """What a body holds; of CloudEvents (structured, binary, a batch) what they carry, and a key that stands for them.

    Calls in our own form have the key of their event in them, unless they have one of their own, so that an event that
    comes twice is run once. Raises InputValidationError and HttpRefusal for what is no event.
    """
    media_type = asking.fields.get(b"content-type", b"").decode("latin-1").strip().lower()
    if media_type.startswith(BATCH):
        value = read_json(asking.body)
        if not isinstance(value, list):
            raise HttpRefusal.at("", "a batch of CloudEvents is an array of them")
        events = [CloudEvent.of_json(event) for event in value]
        keys = "\n".join(event.key for event in events)
        return [_carried(event) for event in events], hashlib.sha256(keys.encode()).hexdigest()
    if media_type.startswith(STRUCTURED):
        event = CloudEvent.of_json(read_json(asking.body))
    elif b"ce-specversion" in asking.fields:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in asking.fields.items()}
        event = CloudEvent.of_headers(headers, asking.body)
    else:
        return read_json(asking.body), None
    return _carried(event), event.key


def _carried(event: CloudEvent) -> Any:
    """The call or calls in an event: its data, in any format."""
    if not event.is_json:
        raise InputValidationError(
            f"the data of event {event.id!r:.80} must be JSON, got {event.datacontenttype!r:.80}"
        )
    data = read_json(event.data) if isinstance(event.data, bytes) else event.data
    if isinstance(data, dict) and detect_format(data) == "toolpost":
        data = {**data, "idempotency_key": data.get("idempotency_key") or event.key}
        if (trace := event.extensions.get("traceparent")) and "trace" not in data:
            data["trace"] = trace
    return data


# -- what goes ---------------------------------------------------------------------------------------------------------


def as_events(door: Door, asking: Asking, found: Answer | Response) -> Answer | Response:
    """An answer as the caller's Accept has it: a CloudEvent, or a batch of them, in place of results of our own form.

    The status stays what it is. What is no result of a call (a stream, a provider's form, a request that was refused)
    stays as well.
    """
    accept = asking.fields.get(b"accept", b"").decode("latin-1").lower()
    batch = BATCH in accept
    if not isinstance(found, Answer) or not (batch or STRUCTURED in accept):
        return found
    value = orjson.loads(found.body)
    if isinstance(value, dict) and list(value) == ["calls"]:
        value = value["calls"]
    many = isinstance(value, list)
    items = value if many else [value]
    if (many and not batch) or not all(isinstance(one, dict) and "call_id" in one for one in items):
        return found
    events = [_event_of(door, one).to_json() for one in items]
    found.media_type = (BATCH if batch else STRUCTURED).encode()
    found.body = orjson.dumps(events if batch else events[0], option=_OPTIONS)
    return found


def _event_of(door: Door, shown: dict[str, Any]) -> CloudEvent:
    """How a call stands or ended: a report, a result, or the problem of one that failed."""
    state = shown.get("state")
    if state is None:
        ran = shown.get("error", shown).get("outcome") != "not_run"
        state = "succeeded" if shown.get("success") else "failed" if ran else "rejected"
    return report_event(
        state, shown["call_id"], shown, source=event_source(door.executor), at=door.executor.clock.now()
    )
