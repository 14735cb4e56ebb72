"""CloudEvent: an event after CloudEvents 1.0, from and to JSON (structured mode) and headers (binary mode).

Who reads a body's JSON is the door; what is made of events as calls is the door's as well.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote

import orjson

from toolpost.calls.errors import InputValidationError

STRUCTURED: Final = "application/cloudevents+json"
BATCH: Final = "application/cloudevents-batch+json"
CALL_TYPE: Final = "dev.toolpost.call"
"""The type of an event that is a call; a report's has the call's state behind it: dev.toolpost.call.succeeded."""
KNOWN: Final = ("specversion", "id", "source", "type", "subject", "time", "datacontenttype", "dataschema")
MAX_CHARS: Final = 4096
"""Of one attribute."""
MAX_KEY: Final = 200
_KEPT: Final = "!#$&'()*+,/:;=?@[]"
_ATTRIBUTE: Final = re.compile(r"[a-z0-9]{1,40}\Z")
_UNWRITABLE: Final = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_QUOTED: Final = re.compile(r'"((?:[^"\\]|\\.)*)"\Z')
_PERCENT: Final = re.compile(rb"%([0-9A-Fa-f]{2})")
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)\Z", re.ASCII)
_JSON: Final = re.compile(r"[^/;\s]+/(?:[^;\s]+\+)?json\s*(?:;|\Z)", re.I)


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudEvent:
    """One event. source and id name it, for good; time is RFC 3339; data a JSON value, or bytes where it is no JSON."""

    id: str
    source: str
    type: str
    subject: str | None = None
    time: str | None = None
    datacontenttype: str | None = None
    dataschema: str | None = None
    extensions: Mapping[str, str | int | bool] = field(default_factory=dict)
    data: Any = None

    @classmethod
    def of_json(cls, value: Any) -> CloudEvent:
        """An event in the JSON format. Raises InputValidationError, which names the attribute."""
        if not isinstance(value, Mapping):
            raise InputValidationError(f"a CloudEvent is a JSON object, got {type(value).__name__}")
        if "data" in value and value.get("data_base64") is not None:
            raise InputValidationError("a CloudEvent has data or data_base64, not both")
        given = {name: one for name, one in value.items() if name not in ("data", "data_base64") and one is not None}
        data = value.get("data")
        if (packed := value.get("data_base64")) is not None:
            data = _unpacked(packed)
        return cls._of(given, data)

    @classmethod
    def of_headers(cls, headers: Mapping[str, str], body: bytes) -> CloudEvent:
        """An event in binary mode, whose data are the bytes of the body. headers are in lower case."""
        given: dict[str, Any] = {
            name[3:]: _decoded(name, value) for name, value in headers.items() if name.startswith("ce-")
        }
        if "datacontenttype" in given:
            raise InputValidationError("the header ce-datacontenttype must not be sent: Content-Type says it")
        if headers.get("content-type"):
            given["datacontenttype"] = headers["content-type"]
        return cls._of(given, body)

    @classmethod
    def _of(cls, given: Mapping[str, Any], data: Any) -> CloudEvent:
        for name, value in given.items():
            _check(name, value)
        if given.get("specversion") != "1.0":
            raise InputValidationError(f"specversion must be '1.0', got {given.get('specversion')!r:.40}")
        for name in ("id", "source", "type"):
            if not given.get(name):
                raise InputValidationError(f"a CloudEvent must have {name}")
        if "time" in given and not _TIME.match(given["time"]):
            raise InputValidationError(f"time must be as in RFC 3339, got {given['time']!r:.60}")
        known = {name: given[name] for name in KNOWN[1:] if name in given}
        extensions = {name: value for name, value in given.items() if name not in KNOWN}
        return cls(**known, extensions=extensions, data=data)

    @property
    def key(self) -> str:
        """A text that stands for source and id, by which an event that comes twice is known: an idempotency key."""
        text = f"{quote(self.source, safe=_KEPT)} {quote(self.id, safe=_KEPT)}"
        return text if len(text) <= MAX_KEY else hashlib.sha256(text.encode()).hexdigest()

    @property
    def is_json(self) -> bool:
        """Whether data are JSON, as they are where nothing else is said."""
        return self.datacontenttype is None or _JSON.match(self.datacontenttype) is not None

    def attributes(self) -> dict[str, str | int | bool]:
        """All attributes that are set."""
        named = {name: getattr(self, name) for name in KNOWN[1:]}
        return {
            "specversion": "1.0",
            **{name: value for name, value in named.items() if value is not None},
            **self.extensions,
        }

    def to_json(self) -> dict[str, Any]:
        """The event in the JSON format."""
        if isinstance(self.data, bytes):
            return {**self.attributes(), "data_base64": base64.b64encode(self.data).decode()}
        return {**self.attributes(), "data": self.data}

    def to_headers(self) -> tuple[dict[str, str], bytes]:
        """The event in binary mode: headers and body."""
        attributes = self.attributes()
        content_type = str(attributes.pop("datacontenttype", "application/json"))
        headers = {f"ce-{name}": _encoded(value) for name, value in attributes.items()}
        body = self.data if isinstance(self.data, bytes) else orjson.dumps(self.data, option=orjson.OPT_NON_STR_KEYS)
        return {"content-type": content_type, **headers}, body


def report_event(
    state: str,
    call_id: str,
    data: Mapping[str, Any],
    *,
    source: str,
    event_id: str | None = None,
    at: float | None = None,
    trace: str | None = None,
) -> CloudEvent:
    """How a call stands as an event. data is the report's JSON; at is wall time, trace a traceparent."""
    return CloudEvent(
        id=event_id or f"{call_id}:{state}",
        source=source,
        type=f"{CALL_TYPE}.{state}",
        subject=call_id,
        time=None if at is None else rfc3339(at),
        datacontenttype="application/json",
        extensions={} if trace is None else {"traceparent": trace},
        data=data,
    )


def rfc3339(at: float) -> str:
    """A wall time as text."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _check(name: str, value: Any) -> None:
    if not isinstance(name, str) or not _ATTRIBUTE.match(name):
        raise InputValidationError(
            f"a CloudEvent's attributes have names of lower-case letters and digits, got {name!r:.60}"
        )
    if name in KNOWN and not isinstance(value, str):
        raise InputValidationError(f"{name} must be text, got {type(value).__name__}")
    if isinstance(value, bool) or (isinstance(value, int) and -(2**31) <= value < 2**31):
        return
    if not isinstance(value, str) or len(value) > MAX_CHARS or _UNWRITABLE.search(value):
        raise InputValidationError(
            f"{name} must be text of up to {MAX_CHARS} characters without control characters, an integer of 32 bits or "
            f"a boolean, got {value!r:.60}"
        )


def _unpacked(packed: Any) -> bytes:
    try:
        return base64.b64decode(packed, validate=True)
    except (binascii.Error, ValueError, TypeError):
        raise InputValidationError("data_base64 must be base64") from None


def _encoded(value: str | int | bool) -> str:
    """A value as a header has it (HTTP binding, section 3.1.3.2)."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return "".join(
        c if "!" <= c <= "~" and c not in '"%' else "".join(f"%{byte:02X}" for byte in c.encode()) for c in str(value)
    )


def _decoded(name: str, text: str) -> str:
    """What a header says: first without quotes, then with its percent signs undone, once."""
    quoted = _QUOTED.match(text.strip())
    plain = re.sub(r"\\(.)", r"\1", quoted[1]) if quoted else text.strip()
    try:
        return _PERCENT.sub(lambda m: bytes([int(m[1], 16)]), plain.encode()).decode()
    except UnicodeError:
        raise InputValidationError(f"the header {name} is no UTF-8 once its percent signs are undone") from None
