"""CloudEvents after the specification's own examples, and refused where it says MUST."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, strategies as st

from toolpost import InputValidationError
from toolpost.worker.cloudevents import MAX_CHARS, CloudEvent, report_event

# JSON format, section 3.2, and the same events in binary mode.
EXAMPLES = [
    (
        {
            "specversion": "1.0",
            "type": "com.example.someevent",
            "source": "/mycontext",
            "id": "C234-1234-1234",
            "time": "2018-04-05T17:31:00Z",
            "comexampleextension1": "value",
            "comexampleothervalue": 5,
            "datacontenttype": "application/json",
            "data": {"appinfoA": "abc", "appinfoB": 123, "appinfoC": True},
        },
        {
            "ce-specversion": "1.0",
            "ce-type": "com.example.someevent",
            "ce-time": "2018-04-05T17:31:00Z",
            "ce-id": "C234-1234-1234",
            "ce-source": "/mycontext",
            "ce-comexampleextension1": "value",
            "ce-comexampleothervalue": "5",
            "content-type": "application/json",
        },
    ),
    (
        {
            "specversion": "1.0",
            "type": "com.example.someevent",
            "source": "/mycontext",
            "id": "D234-1234-1234",
            "datacontenttype": "application/json",
            "data": "I'm just a string",
        },
        {
            "ce-specversion": "1.0",
            "ce-type": "com.example.someevent",
            "ce-id": "D234-1234-1234",
            "ce-source": "/mycontext",
            "content-type": "application/json",
        },
    ),
]
LEAST: dict[str, Any] = {"specversion": "1.0", "type": "t", "source": "/s", "id": "1"}


@pytest.mark.parametrize(("structured", "headers"), EXAMPLES, ids=["object", "string"])
def test_the_specifications_examples_are_read_and_written_in_both_modes(
    structured: dict[str, Any], headers: dict[str, str]
) -> None:
    event = CloudEvent.of_json(structured)

    written, body = event.to_headers()
    read = CloudEvent.of_headers(headers, body)

    assert event.to_json() == structured
    assert written == headers
    assert json.loads(body) == structured["data"]
    assert (read.id, read.source, read.type, read.time) == (event.id, event.source, event.type, event.time)


def test_bytes_are_base64_in_json_and_themselves_in_binary_mode() -> None:
    event = CloudEvent.of_json({**LEAST, "datacontenttype": "application/octet-stream", "data_base64": "AAH/"})

    headers, body = event.to_headers()

    assert event.data == body == b"\x00\x01\xff"
    assert headers["content-type"] == "application/octet-stream"
    assert event.to_json()["data_base64"] == "AAH/"
    assert not event.is_json


def test_a_header_is_written_as_the_specification_has_it() -> None:
    event = CloudEvent.of_json({**LEAST, "subject": "Euro € 😀"})

    headers, _ = event.to_headers()

    assert headers["ce-subject"] == "Euro%20%E2%82%AC%20%F0%9F%98%80"


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro € 😀"),
        ("%e2%82%ac", "€"),
        ('"quoted \\" text"', 'quoted " text'),
        ("%41%42", "AB"),
        ("%2541", "%41"),
        ("100%", "100%"),
    ],
)
def test_a_header_is_read_as_the_specification_has_it(header: str, value: str) -> None:
    headers = {f"ce-{name}": one for name, one in LEAST.items()}

    assert CloudEvent.of_headers({**headers, "ce-subject": header}, b"").subject == value


@pytest.mark.parametrize("header", ["%C0%A0", "%FF"])
def test_a_header_that_is_no_utf8_is_refused(header: str) -> None:
    headers = {f"ce-{name}": one for name, one in LEAST.items()}

    with pytest.raises(InputValidationError, match="ce-subject"):
        CloudEvent.of_headers({**headers, "ce-subject": header}, b"")


def test_unset_attributes_may_be_null() -> None:
    event = CloudEvent.of_json({**LEAST, "subject": None, "extension": None})

    assert event.subject is None
    assert event.extensions == {}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"specversion": "0.3"}, "specversion must be '1.0'"),
        ({"specversion": None}, "specversion must be '1.0'"),
        ({"id": ""}, "must have id"),
        ({"id": None}, "must have id"),
        ({"source": None}, "must have source"),
        ({"type": None}, "must have type"),
        ({"id": 5}, "id must be text"),
        ({"time": "yesterday"}, "RFC 3339"),
        ({"Upper": "x"}, "lower-case letters"),
        ({"with-dash": "x"}, "lower-case letters"),
        ({"x" * 41: "x"}, "lower-case letters"),
        ({"extension": {"a": 1}}, "extension must be text"),
        ({"extension": 1.5}, "extension must be text"),
        ({"extension": 2**31}, "32 bits"),
        ({"extension": "a\x00b"}, "control characters"),
        ({"extension": "a\r\nb"}, "control characters"),
        ({"subject": "x" * (MAX_CHARS + 1)}, "characters"),
        ({"data": 1, "data_base64": "AA=="}, "not both"),
        ({"data_base64": "!"}, "base64"),
        ({"data_base64": 5}, "base64"),
    ],
)
def test_what_is_no_event_is_refused_and_told_why(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(InputValidationError, match=said):
        CloudEvent.of_json({**LEAST, **changed})


@pytest.mark.parametrize("value", [None, [], "text", 5])
def test_an_event_is_an_object(value: Any) -> None:
    with pytest.raises(InputValidationError, match="JSON object"):
        CloudEvent.of_json(value)


def test_a_content_type_is_said_once() -> None:
    headers = {f"ce-{name}": one for name, one in LEAST.items()}

    with pytest.raises(InputValidationError, match="ce-datacontenttype"):
        CloudEvent.of_headers({**headers, "ce-datacontenttype": "application/json"}, b"")


@given(st.tuples(st.text(min_size=1), st.text(min_size=1)), st.tuples(st.text(min_size=1), st.text(min_size=1)))
def test_events_have_one_key_only_when_source_and_id_are_the_same(one: tuple[str, str], other: tuple[str, str]) -> None:
    def key(pair: tuple[str, str]) -> str:
        return CloudEvent(source=pair[0], id=pair[1], type="t").key

    def plain(pair: tuple[str, str]) -> bool:
        return all(text.isascii() or text.encode("utf-8", "ignore").decode() == text for text in pair)

    assert len(key(one)) <= 200
    assert key(one).isascii()
    if plain(one) and plain(other):
        assert (key(one) == key(other)) is (one == other)


def test_the_parts_of_a_key_do_not_flow_into_one_another() -> None:
    assert CloudEvent(source="a b", id="c", type="t").key != CloudEvent(source="a", id="b c", type="t").key
    long = [CloudEvent(source="x" * 300, id=str(n), type="t").key for n in range(2)]
    assert long[0] != long[1]


def test_a_report_is_an_event() -> None:
    event = report_event("failed", "call-1", {"a": 1}, source="/toolpost", at=0.0, trace="00-a-b-01").to_json()

    assert event == {
        "specversion": "1.0",
        "id": "call-1:failed",
        "source": "/toolpost",
        "type": "dev.toolpost.call.failed",
        "subject": "call-1",
        "time": "1970-01-01T00:00:00.000Z",
        "datacontenttype": "application/json",
        "traceparent": "00-a-b-01",
        "data": {"a": 1},
    }
    assert CloudEvent.of_json(event).to_json() == event
