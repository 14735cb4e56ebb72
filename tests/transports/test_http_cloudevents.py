"""Calls as CloudEvents over HTTP: in every mode, once for each event, and answered as events where that is wanted."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.transports.gateway import Served, gateway
from toolpost import Tool

JSON, STRUCTURED, BATCH = "application/json", "application/cloudevents+json", "application/cloudevents-batch+json"
ran: list[int] = []


@Tool(name="Math.Add", description="Add.", register=False)
async def add(a: int, b: int) -> int:
    ran.append(a + b)
    return a + b


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with gateway([add], idempotency_keys="all", secret_key="a-secret-key-of-some-length") as one:
        yield one


@pytest.fixture(autouse=True)
def nothing_ran() -> None:
    ran.clear()


def event(its_id: str, data: Any = None, **more: Any) -> dict[str, Any]:
    carried = {"tool_name": "Math.Add", "arguments": {"a": 1, "b": 2}} if data is None else data
    least = {"specversion": "1.0", "type": "dev.toolpost.call", "source": "/tests", "id": its_id}
    return {**least, "data": carried, **more}


def sent(served: Served, body: Any, content_type: str = STRUCTURED, **headers: str) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return served.client.post("/v1/calls", content=content, headers={"content-type": content_type, **headers})


def binary(served: Served, its_id: str, body: Any, content_type: str = JSON, **more: str) -> httpx.Response:
    named = {name: value for name, value in event(its_id).items() if name != "data"} | more
    headers = {f"ce-{name}": value for name, value in named.items()}
    return sent(served, body, content_type, **headers)


@pytest.mark.parametrize("content_type", [STRUCTURED, f"{STRUCTURED}; charset=utf-8", STRUCTURED.title()])
def test_an_event_in_structured_mode_is_a_call(served: Served, content_type: str) -> None:
    answer = sent(served, event(f"structured {content_type}"), content_type)

    assert answer.status_code == 200, answer.text
    assert answer.json()["data"] == {"result": 3}


def test_an_event_in_binary_mode_is_a_call(served: Served) -> None:
    answer = binary(served, "binary", event("")["data"])

    assert answer.status_code == 200, answer.text
    assert answer.json()["data"] == {"result": 3}


def test_a_batch_is_several_calls(served: Served) -> None:
    more = {"tool_name": "Math.Add", "arguments": {"a": 2, "b": 2}}

    answer = sent(served, [event("batch 1"), event("batch 2", more)], BATCH)

    assert [one["data"]["result"] for one in answer.json()] == [3, 4]


@pytest.mark.parametrize("mode", ["structured", "binary", "batch"])
def test_an_event_that_comes_twice_is_run_once(served: Served, mode: str) -> None:
    def send(its_id: str) -> httpx.Response:
        if mode == "binary":
            return binary(served, its_id, event("")["data"])
        return sent(served, event(its_id)) if mode == "structured" else sent(served, [event(its_id)], BATCH)

    first, again, other = send(f"{mode} once"), send(f"{mode} once"), send(f"{mode} other")

    assert ran == [3, 3]
    assert {answer.status_code for answer in (first, again, other)} == {200}


def test_events_of_two_sources_with_one_id_are_two(served: Served) -> None:
    for source in ("/one", "/two"):
        assert sent(served, event("shared", source=source)).status_code == 200

    assert ran == [3, 3]


def test_an_event_of_a_providers_call_is_run_once(served: Served) -> None:
    call = {"type": "function_call", "call_id": "c1", "name": "Math__Add", "arguments": '{"a": 1, "b": 2}'}

    answers = [sent(served, event("provider", call)) for _ in range(2)]

    assert [answer.status_code for answer in answers] == [200, 200], answers[0].text
    assert answers[0].json() == answers[1].json()
    assert ran == [3]


def test_a_key_of_the_calls_own_goes_before_the_events(served: Served) -> None:
    data = {**event("")["data"], "idempotency_key": "own"}

    for its_id in ("own 1", "own 2"):
        assert sent(served, event(its_id, data)).status_code == 200

    assert ran == [3]


def test_an_answer_is_an_event_for_who_wants_one(served: Served) -> None:
    answer = sent(served, event("answered"), accept=STRUCTURED)

    shown = answer.json()
    assert answer.headers["content-type"] == STRUCTURED
    assert shown["type"] == "dev.toolpost.call.succeeded"
    assert shown["specversion"] == "1.0"
    assert shown["subject"] == shown["data"]["call_id"]
    assert shown["data"]["data"] == {"result": 3}


def test_a_call_that_is_refused_is_an_event_of_that_with_its_status(served: Served) -> None:
    data = {"tool_name": "Math.Add", "arguments": {"a": "x"}}

    answer = sent(served, event("refused", data), accept=STRUCTURED)

    assert answer.status_code == 400
    assert answer.json()["type"] == "dev.toolpost.call.rejected"
    assert answer.json()["data"]["code"] == "invalid_input"


def test_an_accepted_call_is_an_event_of_that(served: Served) -> None:
    answer = sent(served, event("accepted"), accept=STRUCTURED, prefer="respond-async")

    assert answer.status_code == 202
    assert answer.json()["type"] in ("dev.toolpost.call.queued", "dev.toolpost.call.running")
    assert answer.headers["location"].endswith(answer.json()["subject"])


def test_several_are_answered_as_a_batch_for_who_asks_for_one(served: Served) -> None:
    answer = sent(served, [event("many 1"), event("many 2")], BATCH, accept=BATCH)

    assert answer.headers["content-type"] == BATCH
    assert [one["type"] for one in answer.json()] == ["dev.toolpost.call.succeeded"] * 2
    assert sent(served, [event("many 3")], BATCH, accept=STRUCTURED).headers["content-type"] == JSON


@pytest.mark.parametrize(
    ("body", "content_type", "said"),
    [
        (event("x", specversion="0.3"), STRUCTURED, "specversion"),
        ({**event("x"), "id": ""}, STRUCTURED, "must have id"),
        (event("x", datacontenttype="text/plain", data="text"), STRUCTURED, "must be JSON"),
        (event("x"), BATCH, "an array"),
        ([1], BATCH, "JSON object"),
        (b"{", STRUCTURED, "invalid JSON"),
        (b'{"id": 1, "id": 2}', STRUCTURED, "given twice"),
    ],
)
def test_what_is_no_event_is_refused(served: Served, body: Any, content_type: str, said: str) -> None:
    answer = sent(served, body, content_type)

    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"
    assert said in answer.text
    assert ran == []


def test_binary_data_that_are_no_json_are_refused(served: Served) -> None:
    answer = binary(served, "xml", b"<call/>", "application/xml")

    assert answer.status_code in (400, 415)
    assert ran == []
