"""Calls over HTTP: by a tool's path and in every provider's format, at once and accepted, looked up and ended."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.transports.gateway import Served, gateway
from tests.transports.http_shop import GATES, RAN, TOOLS
from toolpost.transports.http_options import checked_body
from toolpost.transports.http_problems import HttpRefusal
from toolpost.transports.serve_protocol import BoundedProtocol

ADD = "/v1/tools/Math.Add/calls"
ASYNC = {"prefer": "respond-async"}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("calls")
    with gateway(TOOLS, records_url=f"sqlite:///{folder}/calls.db", secret_key="k" * 32) as one:
        yield one


@pytest.fixture
def aside() -> Iterator[ThreadPoolExecutor]:
    """Threads for requests that wait."""
    with ThreadPoolExecutor(8) as pool:
        yield pool


def call(served: Served, tool: str, arguments: dict[str, Any] | None = None, **more: Any) -> httpx.Response:
    headers = more.pop("headers", {})
    return served.client.post(f"/v1/tools/{tool}/calls", json={"arguments": arguments or {}, **more}, headers=headers)


def requests_counted(served: Served) -> int:
    """How many calls of tools the gateway has answered with 200."""
    lines = served.client.get("/metrics").text.splitlines()
    found = [one for one in lines if 'route="/v1/tools/{name}/calls"' in one and 'status="2' in one]
    return int(sum(float(one.rpartition(" ")[2]) for one in found if "_total{" in one))


# -- one call ---------------------------------------------------------------------------------------------------------


def test_a_version_may_be_named_in_the_body_or_in_the_path(served: Served) -> None:
    newest = call(served, "Math.Add", {"a": 1, "b": 2})
    old = call(served, "Math.Add", {"a": 1, "b": 2}, version="1.0.0")
    in_path = call(served, "Math.Add@1.0.0", {"a": 1, "b": 2})
    none = call(served, "Math.Add", {"a": 1, "b": 2}, version="9.9.9")
    alone = served.client.post(ADD, json={"version": "9.9.9"})

    assert newest.json()["data"] == {"sum": 3}
    assert old.json()["data"] == in_path.json()["data"] == {"result": 3}
    assert (none.status_code, none.json()["code"]) == (404, "unknown_tool")
    assert alone.status_code == 404


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"connection": "Keep-Alive"},
        {"connection": "close"},
        {"x-request-id": "r-1"},
        {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"},
    ],
    ids=lambda headers: next(iter(headers.items()), ("plain", ""))[0],
)
def test_an_answer_says_the_same_in_one_piece_and_in_two(
    served: Served, headers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces = list[bool]()
    real = BoundedProtocol._answer

    def answer(self: BoundedProtocol, *given: Any) -> bool:
        pieces.append(real(self, *given) if len(answers) == 0 else False)
        return pieces[-1]

    monkeypatch.setattr(BoundedProtocol, "_answer", answer)
    answers = list[httpx.Response]()
    counted = []
    for _ in range(2):
        before = requests_counted(served)
        answers.append(call(served, "Math.Add", {"a": 1, "b": 2}, headers=headers))
        counted.append(requests_counted(served) - before)

    told = [dict(one.headers) | one.json() for one in answers]
    for one in told:
        assert one["toolpost-call-id"] == one["call_id"]
        for changing in ("date", "call_id", "toolpost-call-id", "execution_time_ms", "content-length"):
            one.pop(changing, None)
        assert len(one.pop("x-request-id", "r-1")) in (3, 36)
    assert told[0] == told[1]
    assert counted == [1, 1]
    assert any(pieces) == (headers.keys() <= {"connection"} and headers.get("connection") != "close")


def test_a_body_is_not_needed(served: Served) -> None:
    empty = served.client.post("/v1/tools/Fail.Tool/calls")
    nulls = served.client.post("/v1/tools/Fail.Tool/calls", json={"arguments": None, "version": None})

    assert (empty.status_code, nulls.status_code) == (500, 500)
    assert empty.json()["code"] == nulls.json()["code"] == "NO_ORDER"


def test_wrong_arguments_are_named_by_pointers_into_the_body(served: Served) -> None:
    answer = call(served, "Math.Add", {"a": "x", "c": 1})

    problem = answer.json()
    assert (answer.status_code, problem["code"], problem["outcome"]) == (400, "invalid_input", "not_run")
    assert {place["pointer"] for place in problem["errors"]} == {"#/arguments/a", "#/arguments/b", "#/arguments/c"}
    assert problem["call_id"] == answer.headers["toolpost-call-id"]
    assert problem["tool"] == "Math.Add"


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ([], "#"),
        ("text", "#"),
        (7, "#"),
        ({"argument": {}}, "#/argument"),
        ({"arguments": []}, "#/arguments"),
        ({"arguments": "{}"}, "#/arguments"),
        ({"arguments": {}, "version": 1}, "#/version"),
        ({"arguments": {}, "version": ""}, "#/version"),
        ({"arguments": {}, "version": "x" * 257}, "#/version"),
        ({"arguments": {}, "deadline_s": 0}, "#/deadline_s"),
        ({"arguments": {}, "deadline_s": -1}, "#/deadline_s"),
        ({"arguments": {}, "deadline_s": "5"}, "#/deadline_s"),
        ({"arguments": {}, "deadline_s": True}, "#/deadline_s"),
        ({"arguments": {}, "session_id": "a\nb"}, "#/session_id"),
        ({"arguments": {}, "task_id": {}}, "#/task_id"),
        ({"arguments": {}, "idempotency_key": 1}, "#/idempotency_key"),
        ({"arguments": {}, "explain": "yes"}, "#/explain"),
        ({"arguments": {}, "a/b~c": 1}, "#/a~1b~0c"),
    ],
)
def test_a_body_that_is_none_is_refused_with_the_place(served: Served, body: Any, pointer: str) -> None:
    answer = served.client.post(ADD, json=body)

    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_input")
    assert [place["pointer"] for place in answer.json()["errors"]] == [pointer]


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("priority", 101),
        ("priority", 1.5),
        ("priority", True),
        ("delay_s", -1),
        ("delay_s", 10**9),
        ("delay_s", "1"),
        ("run_at", "tomorrow"),
        ("run_at", "2026-05-01T08:00:00"),
        ("run_at", "2026-13-01T08:00:00Z"),
        ("run_at", -1),
        ("max_attempts", 0),
        ("max_attempts", 101),
        ("order_key", ""),
        ("callback", "ftp://example.com"),
        ("callback", 5),
    ],
)
def test_what_an_accepted_call_may_ask_for_is_checked(served: Served, member: str, value: Any) -> None:
    answer = served.client.post(ADD, json={"arguments": {"a": 1, "b": 2}, member: value}, headers=ASYNC)

    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (400, f"#/{member}")


def test_what_only_accepted_calls_have_is_refused_without_the_preference(served: Served) -> None:
    for path, body in ((ADD, {"arguments": {}}), ("/v1/calls", {"tool": "Math.Add", "arguments": {}})):
        answer = served.client.post(path, json={**body, "delay_s": 5})

        assert answer.status_code == 400
        assert "Prefer: respond-async" in answer.json()["detail"]


def test_of_very_many_wrong_members_the_first_are_named() -> None:
    class Body(dict[str, int]):
        def items(self) -> Any:
            for number, item in enumerate(super().items()):
                assert number < 100, "it goes on"
                yield item

    with pytest.raises(HttpRefusal) as refused:
        checked_body(Body((f"k{n}", n) for n in range(1_000)), authenticated=True, accepts=False)

    assert len(refused.value.errors) == 100


def test_every_wrong_place_is_named_at_once(served: Served) -> None:
    answer = served.client.post(ADD, json={"arguments": 1, "version": 2, "nothing": 3})

    assert [place["pointer"] for place in answer.json()["errors"]] == ["#/arguments", "#/version", "#/nothing"]


@pytest.mark.parametrize(
    ("tool", "status", "code", "retryable", "outcome"),
    [
        ("Fail.Tool", 500, "NO_ORDER", False, "ran"),
        ("Fail.Upstream", 502, "upstream_failed", True, "ran"),
        ("Fail.Hard", 500, "tool_failed", False, "ran"),
        ("Not.There", 404, "unknown_tool", False, "not_run"),
    ],
)
def test_a_failure_is_a_problem_with_its_own_status(
    served: Served, tool: str, status: int, code: str, retryable: bool, outcome: str
) -> None:
    answer = call(served, tool)

    problem = answer.json()
    assert answer.status_code == problem["status"] == status
    assert (problem["code"], problem["retryable"], problem["outcome"]) == (code, retryable, outcome)
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_failure_that_says_when_to_try_again_says_so_in_the_header_too(served: Served) -> None:
    answer = call(served, "Fail.Upstream")

    assert answer.headers["retry-after"] == "3"
    assert answer.json()["retry_after_ms"] in range(2500, 2502)


def test_a_deadline_is_kept(served: Served) -> None:
    answer = call(served, "Gate.Wait", {"name": "deadline"}, deadline_s=0.05)

    assert (answer.status_code, answer.json()["code"], answer.json()["outcome"]) == (504, "timeout", "stopped")


def test_a_call_explains_itself_when_asked(served: Served) -> None:
    told = call(served, "Math.Add", {"a": 1, "b": 2}, explain=True).json()
    failed = call(served, "Math.Add", {"a": 1}, explain=True).json()
    untold = call(served, "Math.Add", {"a": 1, "b": 2}).json()

    assert told["explanation"][0]["stage"] == "settle"
    assert "validate" in [stage["stage"] for stage in told["explanation"]]
    assert failed["explanation"]
    assert "explanation" not in untold


@pytest.mark.parametrize("path", ["/v1/tools/Ask.First/calls", "/v1/calls"])
def test_a_call_that_asks_first_goes_on_when_it_is_made_again_with_the_answers(served: Served, path: str) -> None:
    body = {"arguments": {}} if "tools" in path else {"tool": "Ask.First", "arguments": {}}

    asked = served.client.post(path, json=body)
    [key] = asked.json()["details"]["questions"]
    answers = {key: {"action": "accept", "content": {"colour": "blue"}}}
    answered = served.client.post(path, json={**body, "answers": answers})
    wrong = served.client.post(path, json={**body, "answers": "blue"})

    assert (asked.status_code, asked.json()["code"]) == (409, "input_required")
    assert answered.json()["data"] == {"result": "blue"}
    assert (wrong.status_code, wrong.json()["errors"][0]["pointer"]) == (400, "#/answers")


def test_artifacts_come_as_links_that_need_no_key(served: Served) -> None:
    [artifact] = call(served, "Plot.Draw").json()["artifacts"]

    assert (artifact["name"], artifact["size"]) == ("plots/one.txt", 6)
    assert httpx.get(artifact["url"]).content == b"a line"


# -- a caller that leaves ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/v1/tools/Gate.Wait/calls", "/v1/calls"])
def test_a_caller_that_leaves_has_its_call_cancelled(served: Served, path: str) -> None:
    name = f"left by {path[-12:]}"
    body = json.dumps(
        {"arguments": {"name": name}} if "tools" in path else {"tool": "Gate.Wait", "arguments": {"name": name}}
    )
    connection = served.connect()
    connection.sendall(
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
    )
    GATES.begun(name)

    connection.close()

    assert GATES.cancelled[name].wait(20)
    assert served.client.get("/live").status_code == 200


def test_a_caller_that_leaves_takes_all_calls_of_its_request_along(served: Served) -> None:
    calls = [{"tool": "Gate.Wait", "arguments": {"name": f"many {n}"}} for n in range(3)]
    body = json.dumps(calls)
    connection = served.connect()
    connection.sendall(
        f"POST /v1/calls HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
    )
    for n in range(3):
        GATES.begun(f"many {n}")

    connection.close()

    for n in range(3):
        assert GATES.cancelled[f"many {n}"].wait(20)


# -- any provider's format --------------------------------------------------------------------------------------------

OPENAI = {"type": "function_call", "call_id": "c1", "name": "Math__Add", "arguments": '{"a":1,"b":2}'}
CHAT = {"role": "assistant", "tool_calls": [
    {"id": "c1", "type": "function", "function": {"name": "Math__Add", "arguments": '{"a":1,"b":2}'}}]}  # fmt: skip
ANTHROPIC = {"role": "assistant", "content": [
    {"type": "tool_use", "id": "c1", "name": "Math__Add", "input": {"a": 1, "b": 2}},
    {"type": "tool_use", "id": "c2", "name": "Math__Add", "input": {"a": 1}}]}  # fmt: skip
GEMINI = {"role": "model", "parts": [{"functionCall": {"name": "Math.Add", "args": {"a": 1, "b": 2}}}]}
MCP = {"jsonrpc": "2.0", "id": 5, "method": "tools/call", "params": {"name": "Math.Add", "arguments": {"a": 1, "b": 2}}}


def test_openai_is_answered_as_openai(served: Served) -> None:
    answer = served.client.post("/v1/calls", json=[OPENAI])

    assert answer.json() == [{"type": "function_call_output", "call_id": "c1", "output": '{"sum":3}'}]
    assert len(answer.headers["toolpost-call-id"]) == 36


def test_chat_is_answered_as_chat(served: Served) -> None:
    assert served.client.post("/v1/calls", json=CHAT).json() == [
        {"role": "tool", "tool_call_id": "c1", "content": '{"sum":3}'}
    ]


def test_anthropic_is_answered_as_anthropic_with_errors_of_single_calls(served: Served) -> None:
    answer = served.client.post("/v1/calls", json=ANTHROPIC)

    assert answer.status_code == 200
    first, second = answer.json()["content"]
    assert first == {"type": "tool_result", "tool_use_id": "c1", "content": '{"sum":3}'}
    assert (second["tool_use_id"], second["is_error"]) == ("c2", True)


def test_gemini_is_answered_as_gemini_without_an_id_that_it_did_not_give(served: Served) -> None:
    [part] = served.client.post("/v1/calls", json=GEMINI).json()["parts"]

    assert part == {"functionResponse": {"name": "Math.Add", "response": {"output": {"sum": 3}}}}


def test_mcp_is_answered_as_mcp(served: Served) -> None:
    [result] = served.client.post("/v1/calls", json=MCP).json()

    assert (result["structuredContent"], result["isError"]) == ({"sum": 3}, False)


def test_the_same_id_of_two_models_is_two_calls(served: Served) -> None:
    one = served.client.post("/v1/calls", json=[OPENAI])
    two = served.client.post("/v1/calls", json=[OPENAI])

    assert one.json() == two.json()
    assert one.headers["toolpost-call-id"] != two.headers["toolpost-call-id"]


def test_one_call_in_our_own_form_is_answered_as_by_its_path(served: Served) -> None:
    good = served.client.post("/v1/calls", json={"tool": "Math.Add", "arguments": {"a": 1, "b": 2}, "explain": True})
    bad = served.client.post("/v1/calls", json={"tool": "Math.Add", "arguments": {"a": 1}})

    assert (good.status_code, good.json()["data"]) == (200, {"sum": 3})
    assert good.json()["explanation"]
    assert (bad.status_code, bad.json()["errors"][0]["pointer"]) == (400, "#/arguments/b")


def test_several_calls_in_our_own_form_are_answered_in_order(served: Served) -> None:
    calls = [{"tool": "Math.Add", "arguments": {"a": n, "b": 0}} for n in range(20)]
    calls[7] = {"tool": "Not.There", "arguments": {}}

    answer = served.client.post("/v1/calls", json=calls)

    results = answer.json()
    assert answer.status_code == 200
    assert [result["success"] for result in results] == [n != 7 for n in range(20)]
    assert [result["data"]["sum"] for result in results if result["success"]] == [n for n in range(20) if n != 7]
    assert results[7]["error"]["code"] == "unknown_tool"


@pytest.mark.parametrize(
    "payload",
    [
        {},
        [],
        [[]],
        7,
        "text",
        None,
        {"what": 1},
        [OPENAI, {"what": 1}],
        [None],
    ],
)
def test_what_holds_no_calls_is_refused_or_answered_with_none(served: Served, payload: Any) -> None:
    answer = served.client.post("/v1/calls", json=payload)

    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_input") or answer.json() == []


def test_a_format_may_be_named_and_must_be_known(served: Served) -> None:
    named = served.client.post("/v1/calls?format=openai", json=[OPENAI])
    other = served.client.post("/v1/calls?format=anthropic", json=[OPENAI])
    unknown = served.client.post("/v1/calls?format=cobol", json=[OPENAI])
    more = served.client.post("/v1/calls?fromat=openai", json=[OPENAI])

    assert named.status_code == 200
    assert other.json() == {"role": "user", "content": []}  # to Anthropic it is a part of a message that is no call
    assert (unknown.status_code, unknown.json()["code"]) == (400, "invalid_query")
    assert more.status_code == 400


def test_a_request_holds_so_many_calls_and_no_more(served: Served) -> None:
    calls = [{"tool": "Math.Add", "arguments": {}}] * 1001

    answer = served.client.post("/v1/calls", json=calls)

    assert (answer.status_code, answer.json()["code"]) == (400, "too_many_calls")


def test_an_argument_that_is_cut_off_costs_its_own_call_only(served: Served) -> None:
    calls = [OPENAI, {**OPENAI, "call_id": "c2", "arguments": '{"a":1,'}]

    good, bad = served.client.post("/v1/calls", json=calls).json()

    assert good["output"] == '{"sum":3}'
    assert json.loads(bad["output"])["error"]["code"] == "invalid_input"


# -- CloudEvents ------------------------------------------------------------------------------------------------------

EVENT = {
    "specversion": "1.0", "id": "e-1", "source": "/orders", "type": "dev.toolpost.call",
    "data": {"tool": "Count.Once", "arguments": {"name": "event"}},
}  # fmt: skip


def test_an_event_in_structured_mode_is_a_call_that_runs_once(served: Served) -> None:
    headers = {"content-type": "application/cloudevents+json; charset=utf-8"}

    first = served.client.post("/v1/calls", content=json.dumps(EVENT), headers=headers)
    again = served.client.post("/v1/calls", content=json.dumps(EVENT), headers=headers)

    assert first.json()["data"] == {"result": 1}
    assert (again.json()["data"], again.headers["idempotency-replayed"]) == ({"result": 1}, "true")


def test_an_event_in_binary_mode_is_a_call(served: Served) -> None:
    headers = {"ce-specversion": "1.0", "ce-id": "e-2", "ce-source": "/orders", "ce-type": "dev.toolpost.call"}

    answer = served.client.post("/v1/calls", json={"tool": "Math.Add", "arguments": {"a": 1, "b": 2}}, headers=headers)

    assert answer.json()["data"] == {"sum": 3}


def test_a_batch_of_events_is_several_calls(served: Served) -> None:
    events = [{**EVENT, "id": f"b-{n}", "data": {"tool": "Math.Add", "arguments": {"a": n, "b": 0}}} for n in range(3)]

    answer = served.client.post(
        "/v1/calls", content=json.dumps(events), headers={"content-type": "application/cloudevents-batch+json"}
    )

    assert [result["data"]["sum"] for result in answer.json()] == [0, 1, 2]


@pytest.mark.parametrize(
    "event", [{}, [], {**EVENT, "specversion": "0.3"}, {**EVENT, "source": ""}, {**EVENT, "data": 5}]
)
def test_what_is_no_event_is_refused(served: Served, event: Any) -> None:
    answer = served.client.post(
        "/v1/calls", content=json.dumps(event), headers={"content-type": "application/cloudevents+json"}
    )

    assert answer.status_code == 400


# -- accepted calls ---------------------------------------------------------------------------------------------------


def test_an_accepted_call_is_answered_with_where_it_is_looked_up(served: Served) -> None:
    answer = call(served, "Math.Add", {"a": 1, "b": 2}, headers=ASYNC)

    assert answer.status_code == 202
    assert answer.headers["preference-applied"] == "respond-async"
    assert answer.headers["location"] == f"{served.url}/v1/calls/{answer.json()['call_id']}"
    ended = served.client.get(answer.headers["location"], params={"wait": 20}).json()
    assert (ended["state"], ended["data"], ended["accepted"]) == ("succeeded", {"sum": 3}, True)


def test_a_call_that_ends_within_the_wait_is_answered_with_its_result(served: Served) -> None:
    answer = call(served, "Math.Add", {"a": 1, "b": 2}, headers={"prefer": "respond-async, wait=20"})

    assert (answer.status_code, answer.json()["data"]) == (200, {"sum": 3})
    assert answer.headers["preference-applied"] == "respond-async, wait=20"


def test_a_call_that_does_not_end_within_the_wait_is_answered_with_202(served: Served) -> None:
    answer = call(served, "Gate.Wait", {"name": "waited"}, headers={"prefer": "respond-async, wait=1"})
    GATES.begun("waited")
    GATES.open("waited")

    assert (answer.status_code, answer.json()["state"]) == (202, "running")


def test_an_accepted_call_fails_with_its_own_status_when_waited_for(served: Served) -> None:
    answer = call(served, "Fail.Tool", {}, headers={"prefer": "wait=20, respond-async"})

    assert (answer.status_code, answer.json()["code"]) == (500, "NO_ORDER")


def test_what_can_be_refused_at_once_is_not_accepted(served: Served) -> None:
    wrong = call(served, "Math.Add", {"a": 1}, headers=ASYNC)
    none = call(served, "Not.There", {}, headers=ASYNC)

    assert (wrong.status_code, wrong.json()["errors"][0]["pointer"]) == (400, "#/arguments/b")
    assert none.status_code == 404


def test_a_later_run_waits_for_its_time(served: Served) -> None:
    answer = call(served, "Math.Add", {"a": 1, "b": 2}, delay_s=3600, priority=5, headers=ASYNC)

    report = answer.json()
    assert (report["state"], report["priority"]) == ("queued", 5)
    assert report["due_at"] > report["created_at"]
    cancelled = served.client.post(f"/v1/calls/{report['call_id']}/cancel")
    assert (cancelled.status_code, cancelled.json()["state"]) == (200, "cancelled")


def test_calls_of_a_provider_are_accepted_and_answered_in_its_format_later(served: Served) -> None:
    answer = served.client.post("/v1/calls", json=[OPENAI], headers=ASYNC)

    [report] = answer.json()["calls"]
    assert (answer.status_code, report["format"], report["provider_id"]) == (202, "openai", "c1")
    served.client.get(answer.headers["location"], params={"wait": 20})
    assert served.client.get(answer.headers["location"], params={"format": "openai"}).json() == [
        {"type": "function_call_output", "call_id": "c1", "output": '{"sum":3}'}
    ]


def test_several_calls_are_accepted_and_what_cannot_be_stands_among_them(served: Served) -> None:
    calls = [{"tool": "Math.Add", "arguments": {"a": 1, "b": 2}}, {"tool": "Math.Add", "arguments": {}}]

    answer = served.client.post("/v1/calls", json=calls, headers=ASYNC)
    waited = served.client.post("/v1/calls", json=[calls[0]] * 3, headers={"prefer": "respond-async, wait=20"})

    good, bad = answer.json()["calls"]
    assert (answer.status_code, good["accepted"], bad["code"]) == (202, True, "invalid_input")
    assert [one["data"] for one in waited.json()] == [{"sum": 3}] * 3


@pytest.mark.parametrize("given", ["wait=x", "respond-async, wait=-1", "respond-async; wait=1.5, wait=1.5"])
def test_a_wait_that_is_none_is_refused(served: Served, given: str) -> None:
    answer = call(served, "Math.Add", {"a": 1, "b": 2}, headers={"prefer": given})

    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_header")


@pytest.mark.parametrize("given", ["return=minimal", "wait=5", 'foo; bar="respond-async"', ""])
def test_preferences_that_are_not_ours_are_passed_over(served: Served, given: str) -> None:
    answer = call(served, "Math.Add", {"a": 1, "b": 2}, headers={"prefer": given})

    assert answer.status_code == 200
    assert "preference-applied" not in answer.headers


# -- looking up -------------------------------------------------------------------------------------------------------


def test_a_call_that_runs_can_be_looked_up_and_ended(served: Served, aside: ThreadPoolExecutor) -> None:
    waiting = aside.submit(call, served, "Gate.Wait", {"name": "ended"}, session_id="looked up")
    GATES.begun("ended")

    [report] = served.client.get("/v1/calls", params={"session": "looked up"}).json()["calls"]
    shown = served.client.get(f"/v1/calls/{report['call_id']}")
    ended = served.client.delete(f"/v1/calls/{report['call_id']}")

    assert (report["state"], shown.headers["retry-after"]) == ("running", "1")
    assert ended.status_code in (200, 202)
    answer = waiting.result(20)
    assert (answer.status_code, answer.json()["code"]) == (499, "cancelled")
    assert served.client.get(f"/v1/calls/{report['call_id']}", params={"wait": 20}).json()["state"] == "cancelled"


def test_ending_a_call_again_and_again_at_once_ends_it_once(served: Served, aside: ThreadPoolExecutor) -> None:
    report = call(served, "Gate.Wait", {"name": "again"}, headers=ASYNC).json()
    GATES.begun("again")

    answers = list(aside.map(lambda _: served.client.post(f"/v1/calls/{report['call_id']}/cancel"), range(8)))

    assert {answer.status_code for answer in answers} <= {200, 202}
    assert served.client.get(f"/v1/calls/{report['call_id']}", params={"wait": 20}).json()["state"] == "cancelled"
    assert served.client.delete(f"/v1/calls/{report['call_id']}").json()["state"] == "cancelled"


def test_a_long_poll_is_answered_when_the_call_ends(served: Served, aside: ThreadPoolExecutor) -> None:
    report = call(served, "Gate.Wait", {"name": "polled"}, headers=ASYNC).json()
    GATES.begun("polled")

    polling = aside.submit(served.client.get, f"/v1/calls/{report['call_id']}", params={"wait": 20})
    GATES.open("polled")

    assert polling.result(20).json()["data"] == {"result": "through polled"}


@pytest.mark.parametrize("path", ["", "/explain", "/cancel"])
def test_a_call_that_is_not_there_is_404(served: Served, path: str) -> None:
    method = "POST" if path == "/cancel" else "GET"

    answer = served.client.request(method, f"/v1/calls/no-such{path}")

    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


def test_the_explanation_of_an_accepted_call_is_kept(served: Served) -> None:
    report = call(served, "Math.Add", {"a": 1, "b": 2}, headers={"prefer": "respond-async, wait=20"}).json()
    plain = call(served, "Math.Add", {"a": 1, "b": 2}).json()

    told = served.client.get(f"/v1/calls/{report['call_id']}/explain")
    untold = served.client.get(f"/v1/calls/{plain['call_id']}/explain")

    assert told.json()["explanation"][0]["stage"] == "settle"
    assert untold.status_code == 404
    assert "explain" in untold.json()["detail"]


def test_a_result_in_a_format_is_there_once_the_call_ended(served: Served) -> None:
    report = call(served, "Gate.Wait", {"name": "format"}, headers=ASYNC).json()
    GATES.begun("format")

    early = served.client.get(f"/v1/calls/{report['call_id']}", params={"format": "openai"})
    GATES.open("format")
    late = served.client.get(f"/v1/calls/{report['call_id']}", params={"format": "openai", "wait": 20})

    assert (early.status_code, early.json()["code"], early.headers["retry-after"]) == (409, "not_ended", "1")
    assert late.json()[0]["output"] == '{"result":"through format"}'


def test_calls_are_listed_page_by_page_as_the_links_say(served: Served) -> None:
    made = [call(served, "Math.Double", {"number": n}, session_id="paged").json()["call_id"] for n in range(5)]

    seen: list[str] = []
    path: str | None = "/v1/calls?session=paged&limit=2&state=succeeded,failed"
    while path is not None:
        page = served.client.get(path)
        seen += [one["call_id"] for one in page.json()["calls"]]
        path = page.links["next"]["url"] if "next" in page.links else None
        assert (page.json()["next"] is None) == (path is None)

    assert sorted(seen) == sorted(made)  # of one millisecond any may come first


def test_calls_are_listed_by_what_they_are(served: Served) -> None:
    call(served, "Math.Double", {"number": 1}, session_id="listed", user_id="anna")
    call(served, "Fail.Tool", {}, session_id="listed", user_id="ben")

    def listed(**query: str) -> list[str]:
        found = served.client.get("/v1/calls", params={"session": "listed", **query}).json()["calls"]
        return [one["tool"] for one in found]

    assert listed() == ["Fail.Tool", "Math.Double"]
    assert listed(tool="Math.Double") == ["Math.Double"]
    assert listed(state="failed") == ["Fail.Tool"]
    assert listed(user="anna") == ["Math.Double"]
    assert listed(since="2020-01-01T00:00:00Z") == ["Fail.Tool", "Math.Double"]
    assert listed(until="2020-01-01T00:00:00+02:00") == []
    assert listed(since="4000000000") == []


@pytest.mark.parametrize(
    "query",
    [
        "limit=0", "limit=1001", "limit=x", "limit=1&limit=2", "state=done", "since=yesterday", "until=2026-01-01",
        "what=1", "after=%00", "limit=%D9%A1", "since=..",
    ],
)  # fmt: skip
def test_a_query_that_says_nothing_is_refused(served: Served, query: str) -> None:
    answer = served.client.get(f"/v1/calls?{query}")

    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_query")


# -- idempotency ------------------------------------------------------------------------------------------------------


def test_a_key_has_a_call_run_once_and_its_result_given_again(served: Served) -> None:
    key = {"idempotency-key": '"order-7"'}

    first = call(served, "Count.Once", {"name": "keyed"}, headers=key)
    again = call(served, "Count.Once", {"name": "keyed"}, headers=key)
    other = call(served, "Count.Once", {"name": "else"}, headers=key)

    assert "idempotency-replayed" not in first.headers
    assert (again.status_code, again.json()["data"]) == (200, first.json()["data"])
    assert again.headers["idempotency-replayed"] == "true"
    assert (other.status_code, other.json()["code"]) == (422, "key_mismatch")
    assert RAN["keyed"] == 1


def test_a_key_of_a_call_that_runs_is_in_progress(served: Served, aside: ThreadPoolExecutor) -> None:
    key = {"idempotency-key": "order-8"}
    waiting = aside.submit(call, served, "Count.Once", {"name": "busy", "wait_at": "busy"}, headers=key)
    GATES.begun("busy")

    answer = call(served, "Count.Once", {"name": "busy", "wait_at": "busy"}, headers=key)
    GATES.open("busy")

    assert (answer.status_code, answer.json()["code"]) == (409, "in_progress")
    assert int(answer.headers["retry-after"]) >= 1
    assert waiting.result(20).status_code == 200


def test_a_key_may_stand_in_the_body_but_not_in_both_places(served: Served) -> None:
    first = call(served, "Count.Once", {"name": "body"}, idempotency_key="order-9")
    again = call(served, "Count.Once", {"name": "body"}, headers={"idempotency-key": "order-9"})
    both = call(served, "Count.Once", {"name": "body"}, idempotency_key="a", headers={"idempotency-key": "a"})

    assert first.json()["data"] == again.json()["data"]
    assert (both.status_code, both.json()["errors"][0]["pointer"]) == (400, "#/idempotency_key")


@pytest.mark.parametrize("key", ['"', '"a', 'a"b', "a b", '""', '"' + "a" * 256 + '"', '"\\x"', "", "a,b", '"a"b', "ä"])
def test_a_key_that_is_none_is_refused(served: Served, key: str) -> None:
    for path, body in ((ADD, {"arguments": {"a": 1, "b": 2}}), ("/v1/calls", [OPENAI])):
        answer = served.client.post(path, json=body, headers={"idempotency-key": key.encode("latin-1")})

        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_idempotency_key")


def test_a_key_of_an_accepted_call_gives_the_call_that_was_accepted_first(served: Served) -> None:
    headers = {**ASYNC, "idempotency-key": '"order-10"'}

    first = call(served, "Count.Once", {"name": "accepted"}, headers=headers)
    again = call(served, "Count.Once", {"name": "accepted"}, headers=headers)
    other = call(served, "Count.Once", {"name": "others"}, headers=headers)

    assert again.headers["location"] == first.headers["location"]
    assert again.headers["idempotency-replayed"] == "true"
    assert (other.status_code, other.json()["code"]) == (422, "key_mismatch")


def test_the_key_of_a_request_counts_for_each_of_its_calls(served: Served) -> None:
    calls = [{"tool": "Count.Once", "arguments": {"name": f"each {n}"}} for n in range(3)]
    headers = {"idempotency-key": '"turn-1"'}

    first = served.client.post("/v1/calls", json=calls, headers=headers).json()
    again = served.client.post("/v1/calls", json=calls, headers=headers).json()

    assert [one["source"] for one in first] == ["run"] * 3
    assert [one["source"] for one in again] == ["replay"] * 3
    assert [RAN[f"each {n}"] for n in range(3)] == [1, 1, 1]


# -- limits -----------------------------------------------------------------------------------------------------------


def test_rate_limits_are_told_before_and_when_they_are_reached(served: Served) -> None:
    answers = [call(served, "Limited.Two", user_id="limited") for _ in range(3)]

    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[0].headers["ratelimit-policy"] == '"user";q=2;w=3600'
    assert answers[0].headers["ratelimit"].startswith('"user";r=1;t=')
    assert answers[1].headers["ratelimit"].startswith('"user";r=0;t=')
    problem = answers[2].json()
    assert (problem["code"], problem["retryable"]) == ("rate_limited", True)
    assert problem["type"].endswith("http-problem-types#quota-exceeded")
    assert problem["violated-policies"] == ["user"]
    assert int(answers[2].headers["retry-after"]) >= 1
    assert answers[2].headers["ratelimit"].startswith('"user";r=0;t=')
