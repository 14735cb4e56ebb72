"""The gateway's front: what it lets in, what every answer has, and what no client would send."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.transports.gateway import Served, gateway
from tests.transports.http_shop import TOOLS

ADD = "/v1/tools/Math.Add/calls"
BODY = b'{"arguments":{"a":1,"b":2}}'
PROBLEM = "application/problem+json"


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with gateway(TOOLS, max_body_size=20_000) as one:
        yield one


def raw(served: Served, head: str, body: bytes = b"") -> tuple[int, bytes]:
    """The status and the whole of what bytes on a bare connection are answered with."""
    lines = head.strip().replace("\n", "\r\n").replace("{port}", str(served.port))
    answer = served.exchange(lines.encode("latin-1") + b"\r\n\r\n" + body)
    return (int(answer.split(b" ", 2)[1]) if answer else 0), answer


# -- answers ----------------------------------------------------------------------------------------------------------


def test_a_call_is_answered_with_its_result(served: Served) -> None:
    answer = served.client.post(ADD, json={"arguments": {"a": 1, "b": 2}, "version": "1.0.0"})

    assert answer.status_code == 200
    assert answer.json()["data"] == {"result": 3}
    assert answer.json()["call_id"] == answer.headers["toolpost-call-id"]


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", ADD), ("GET", "/v1/tools"), ("GET", "/nothing"), ("PUT", ADD), ("GET", "/live"), ("GET", "/v1/calls/x")],
)
def test_every_answer_has_the_security_headers(served: Served, method: str, path: str) -> None:
    answer = served.client.request(method, path, content=BODY if method == "POST" else None, headers=JSON)

    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert len(answer.headers.get_list("cache-control")) == 1
    if answer.status_code >= 400:
        assert answer.headers["content-type"] == PROBLEM


JSON = {"content-type": "application/json"}


def test_a_problem_has_all_that_rfc_9457_names(served: Served) -> None:
    answer = served.client.get("/nothing/here")

    problem = answer.json()
    assert answer.status_code == problem["status"] == 404
    assert problem["title"] == "Not Found"
    assert problem["code"] == "not_found"
    assert problem["instance"].startswith("urn:uuid:")
    assert served.client.get(problem["type"]).json()["meaning"].startswith("There is nothing")


def test_the_meaning_of_every_code_can_be_looked_up(served: Served) -> None:
    from toolpost.transports.http_problem_pages import meanings

    for code, (status, meaning) in meanings().items():
        shown = served.client.get(f"/problems/{code}").json()
        assert (shown["status"], shown["meaning"]) == (status, meaning)
        assert meaning
    assert served.client.get("/problems/none").status_code == 404


def test_a_method_that_a_path_does_not_take_names_those_that_it_does(served: Served) -> None:
    answer = served.client.put(ADD, json={})
    several = served.client.patch("/v1/calls")

    assert (answer.status_code, answer.headers["allow"]) == (405, "OPTIONS, POST")
    assert (several.status_code, several.headers["allow"]) == (405, "GET, HEAD, OPTIONS, POST")


def test_options_names_the_methods_of_a_path(served: Served) -> None:
    answer = served.client.options("/v1/tools")

    assert (answer.status_code, answer.headers["allow"]) == (204, "GET, HEAD, OPTIONS")


def test_head_is_answered_as_get_without_a_body(served: Served) -> None:
    got, headed = served.client.get("/v1/tools"), served.client.head("/v1/tools")

    assert headed.status_code == 200
    assert headed.content == b""
    assert headed.headers["content-length"] == got.headers["content-length"]
    assert headed.headers["etag"] == got.headers["etag"]


def test_the_callers_request_id_is_given_back_and_a_bad_one_is_not(served: Served) -> None:
    own = served.client.post(ADD, content=BODY, headers={**JSON, "x-request-id": "job-7"})
    bad = served.client.get("/live", headers={"x-request-id": 'a b"c'})
    none = served.client.get("/live")

    assert own.headers["x-request-id"] == "job-7"
    assert bad.headers["x-request-id"] not in ('a b"c', "")
    assert len(none.headers["x-request-id"]) == 36


def test_the_trace_of_a_request_is_given_back_and_kept_with_the_call(served: Served) -> None:
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

    answer = served.client.post(
        ADD, content=BODY, headers={**JSON, "traceparent": trace, "tracestate": "vendor=1", "prefer": "respond-async"}
    )

    assert answer.headers["traceparent"] == trace
    assert answer.headers["tracestate"] == "vendor=1"
    assert answer.json()["trace"] == trace


@pytest.mark.parametrize(
    "trace",
    [
        "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
        "none",
    ],
)
def test_what_is_no_trace_is_as_if_it_was_not_sent(served: Served, trace: str) -> None:
    answer = served.client.post(ADD, content=BODY, headers={**JSON, "traceparent": trace, "tracestate": "a=1"})

    assert answer.status_code == 200
    assert "traceparent" not in answer.headers
    assert "tracestate" not in answer.headers


# -- hosts and origins ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:{port}", 200),
        ("localhost", 200),
        ("LOCALHOST:1", 200),
        ("[::1]:8080", 200),
        ("evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhost@evil.example", 400),
        ("", 400),
        ("a b", 400),
    ],
)
def test_only_our_own_hosts_are_answered(served: Served, host: str, status: int) -> None:
    found, answer = raw(served, f"GET /live HTTP/1.1\nHost: {host}\nConnection: close")

    assert found == status, answer


def test_a_request_without_host_is_refused(served: Served) -> None:
    assert raw(served, "GET /live HTTP/1.1\nConnection: close")[0] == 400


def test_hosts_that_are_allowed_are_exactly_those() -> None:
    with gateway(TOOLS, allowed_hosts=("tools.example",), public_url="https://agents.example") as served:
        answers = [
            served.client.get("/live", headers={"host": host}).status_code
            for host in ("tools.example", "tools.example:443", "agents.example", "127.0.0.1", "other.example")
        ]

    assert answers == [200, 200, 200, 421, 421]


def test_hosts_follow_the_settings_while_it_runs() -> None:
    with gateway(TOOLS) as served:
        before = served.client.get("/live", headers={"host": "late.example"}).status_code
        served.executor.config.allowed_hosts = ("late.example",)
        after = served.client.get("/live", headers={"host": "late.example"}).status_code
        gone = served.client.get("/live").status_code

    assert (before, after, gone) == (421, 200, 421)


def test_pages_of_other_origins_may_not_call(served: Served) -> None:
    answer = served.client.post(ADD, content=BODY, headers={**JSON, "origin": "https://evil.example"})
    nowhere = served.client.get("/v1/tools", headers={"origin": "null"})

    assert (answer.status_code, answer.json()["code"]) == (403, "origin_refused")
    assert "access-control-allow-origin" not in answer.headers
    assert nowhere.status_code == 403


@pytest.mark.parametrize("origin", ["http://[", "http://[::1", "http://a:b@localhost", "://"])
def test_an_origin_that_is_none_is_refused_as_another(served: Served, origin: str) -> None:
    answer = served.client.get("/v1/tools", headers={"origin": origin})

    assert (answer.status_code, answer.json()["code"]) == (403, "origin_refused")


@pytest.mark.parametrize("coding", ["gzip, chunked", "identity, chunked", "chunked\r\nTransfer-Encoding: chunked"])
def test_a_body_in_another_coding_is_no_body_of_ours(served: Served, coding: str) -> None:
    head = (
        f"POST {ADD} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: {coding}\r\n"
    )

    answer = served.exchange(head.encode() + b"\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY))

    assert answer.startswith(b"HTTP/1.1 400 ")


def test_pages_of_our_own_origin_may_call(served: Served) -> None:
    answer = served.client.post(ADD, content=BODY, headers={**JSON, "origin": served.url})

    assert answer.status_code == 200
    assert "access-control-allow-origin" not in answer.headers


@pytest.fixture(scope="module")
def open_to_pages() -> Iterator[Served]:
    with gateway(TOOLS, cors_origins=("https://page.example",)) as one:
        yield one


def test_a_browser_is_told_what_pages_of_an_allowed_origin_may_do(open_to_pages: Served) -> None:
    asked = {
        "origin": "https://page.example",
        "access-control-request-method": "POST",
        "access-control-request-headers": "content-type, idempotency-key",
    }

    answer = open_to_pages.client.options(ADD, headers=asked)

    assert answer.status_code == 204
    assert answer.headers["access-control-allow-origin"] == "https://page.example"
    assert answer.headers["access-control-allow-credentials"] == "true"
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert "Idempotency-Key" in answer.headers["access-control-allow-headers"]
    assert "Origin" in answer.headers.get_list("vary", split_commas=True)


def test_pages_of_an_allowed_origin_may_speak_mcp(open_to_pages: Served) -> None:
    asked = {"origin": "https://page.example", "access-control-request-method": "POST"}

    answer = open_to_pages.client.options("/mcp", headers=asked)

    assert answer.status_code == 204
    assert answer.headers["access-control-allow-origin"] == "https://page.example"
    assert {"GET", "POST", "DELETE"} <= set(answer.headers["access-control-allow-methods"].split(", "))


def test_a_browser_is_told_nothing_for_pages_of_other_origins(open_to_pages: Served) -> None:
    asked = {"origin": "https://evil.example", "access-control-request-method": "POST"}

    answer = open_to_pages.client.options(ADD, headers=asked)

    assert answer.status_code == 403
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_answers_to_pages_say_who_may_read_them_even_where_they_are_problems(open_to_pages: Served) -> None:
    page = {**JSON, "origin": "https://page.example"}

    good = open_to_pages.client.post(ADD, content=BODY, headers=page)
    bad = open_to_pages.client.post("/v1/tools/None/calls", content=BODY, headers=page)

    for answer in (good, bad):
        assert answer.headers["access-control-allow-origin"] == "https://page.example"
        assert "Toolpost-Call-Id" in answer.headers["access-control-expose-headers"]
        assert answer.headers["x-request-id"]


def test_any_page_may_call_where_all_may_then_without_credentials() -> None:
    with gateway(TOOLS, cors_origins=("*",)) as served:
        answer = served.client.post(ADD, content=BODY, headers={**JSON, "origin": "https://any.example"})

    assert answer.headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-credentials" not in answer.headers


# -- bodies -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [ADD, "/v1/calls"])
def test_a_body_over_the_limit_is_refused_by_its_length(served: Served, path: str) -> None:
    answer = served.client.post(path, content=b" " * 20_001, headers=JSON)

    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
    assert "20000" in answer.json()["detail"]


@pytest.mark.parametrize("path", [ADD, "/v1/calls"])
def test_a_body_over_the_limit_is_refused_while_it_comes_in_chunks(served: Served, path: str) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(30):
            yield b" " * 1000

    assert served.client.post(path, content=chunks(), headers=JSON).status_code == 413


def test_a_body_in_chunks_is_read(served: Served) -> None:
    answer = served.client.post(ADD, content=iter([BODY[:9], BODY[9:]]), headers=JSON)

    assert answer.status_code == 200


@pytest.mark.parametrize("path", [ADD, "/v1/calls"])
def test_a_much_too_large_body_still_gets_its_answer(served: Served, path: str) -> None:
    head = f"POST {path} HTTP/1.1\nHost: localhost\nContent-Type: application/json\nContent-Length: 5000000"

    status, _ = raw(served, head, b" " * 5_000_000)  # a connection that is closed while this is sent loses its answer

    assert status == 413


@pytest.mark.parametrize("path", [ADD, "/v1/calls"])
def test_a_caller_that_asks_first_need_not_send_a_body_that_is_too_large(served: Served, path: str) -> None:
    head = f"POST {path} HTTP/1.1\nHost: localhost\nContent-Type: application/json\nContent-Length: 5000000"

    status, answer = raw(served, f"{head}\nExpect: 100-continue")

    assert status == 413
    assert b"100 Continue" not in answer


def test_two_ways_to_say_how_long_a_body_is_are_refused_whatever_the_server_lets_through(served: Served) -> None:
    sent: list[Any] = []
    headers = [(b"host", b"localhost"), (b"content-length", b"27"), (b"transfer-encoding", b"chunked")]
    scope = {
        "type": "http",
        "method": "POST",
        "path": ADD,
        "raw_path": ADD.encode(),
        "query_string": b"",
        "headers": headers,
    }

    async def receive() -> Any:
        return {"type": "http.request", "body": BODY, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    served.run(served.app(scope, receive, send))

    assert sent[0]["status"] == 400
    assert b"not both" in sent[1]["body"]


@pytest.mark.parametrize("name", ["Idempotency-Key", "Authorization", "Toolpost-Session", "X-API-Key", "X-Request-Id"])
def test_a_header_that_may_be_there_once_is_refused_twice(served: Served, name: str) -> None:
    status, answer = raw(served, f"{HEAD}\nContent-Length: 27\n{name}: a\n{name}: a", BODY)

    assert status == 400
    assert f"the header {name.lower()} is given twice".encode() in answer


@pytest.mark.parametrize(
    "content_type",
    ["text/plain", "application/x-www-form-urlencoded", "application/json; charset=utf-16", "application/jsonp", ""],
)
def test_a_body_of_another_type_is_refused(served: Served, content_type: str) -> None:
    answer = served.client.post(ADD, content=BODY, headers={"content-type": content_type})

    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")
    assert answer.headers["accept"] == "application/json"


@pytest.mark.parametrize("content_type", ["application/json; charset=UTF-8", "Application/JSON", "application/json \t"])
def test_the_ways_to_write_json_are_all_taken(served: Served, content_type: str) -> None:
    head = (
        f"POST {ADD} HTTP/1.1\nHost: localhost \nContent-Type: {content_type}\nContent-Length: 27 \nConnection: close"
    )

    assert raw(served, head, BODY)[0] == 200


def test_a_compressed_body_is_refused(served: Served) -> None:
    answer = served.client.post(ADD, content=BODY, headers={**JSON, "content-encoding": "gzip"})

    assert answer.status_code == 415


def test_a_body_that_does_not_arrive_ends_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolpost.transports.http_bodies.BODY_S", 0.1)
    with gateway(TOOLS) as served:
        head = f"POST {ADD} HTTP/1.1\nHost: localhost\nContent-Type: application/json\nContent-Length: 100"
        status, answer = raw(served, head, b'{"arguments"')

    assert status == 408
    assert b"body_timeout" in answer


# -- JSON -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b'{"arguments":{"a":1,"a":2,"b":3}}', "json_duplicate_key"),
        (b'{"arguments":{"a" :1,"a":2,"b":3,"c":"x:y"}}', "json_duplicate_key"),
        (b'{"arguments":{"a":1,"\\u0061":2,"b":":"}}', "json_duplicate_key"),
        (b'{"arguments":{"a":1,"a":":","b":"\\u003a\\u003a"}}', "json_duplicate_key"),
        (b'{"arguments":{"a":NaN,"b":2}}', "json_constant"),
        (b'{"arguments":{"a":1e999,"b":2}}', "json_number"),
        (b'{"arguments":{"a":123456789012345678901,"b":2}}', "json_number"),
        (b'{"arguments":{"a":"\\ud800","b":2}}', "json_surrogate"),
        (b'{"arguments":{"a":"\xff","b":2}}', "json_encoding"),
        (b'{"arguments":' + b"[" * 5000 + b"]" * 5000 + b"}", "json_depth"),
        (b'{"arguments":' + b'{"a":' * 300 + b"1" + b"}" * 301, "json_depth"),
        (b'{"arguments":{"a":1,"b":2}', "json_syntax"),
        (b'{"arguments":{"a":1,"b":2}} {}', "json_syntax"),
        (b"{'arguments':{}}", "json_syntax"),
    ],
)
def test_json_that_could_be_read_in_two_ways_is_refused_with_its_place(served: Served, body: bytes, kind: str) -> None:
    for path in (ADD, "/v1/calls"):
        answer = served.client.post(path, content=body, headers=JSON)

        assert answer.status_code == 400, answer.text
        [place] = answer.json()["errors"]
        assert place["type"] == kind
        assert place["pointer"].startswith("#")


def test_a_byte_order_mark_is_no_reason_to_refuse(served: Served) -> None:
    assert served.client.post(ADD, content=b"\xef\xbb\xbf" + BODY, headers=JSON).status_code == 200


# -- what no client would send ----------------------------------------------------------------------------------------

HEAD = f"POST {ADD} HTTP/1.1\nHost: localhost\nContent-Type: application/json\nConnection: close"


@pytest.mark.parametrize(
    "more",
    [
        "Content-Length: 27\nContent-Length: 5",
        "Content-Length: 27\nTransfer-Encoding: chunked",
        "Content-Length: +27",
        "Content-Length: -1",
        "Content-Length: 27, 27",
        "Content-Length: 1_0",
        "Transfer-Encoding: gzip, chunked, gzip",
        "Transfer-Encoding: chunked\nTransfer-Encoding: identity",
        "Content-Length: 27\nHost: evil.example",
        "Content-Length: 27\nContent-Type: text/plain",
        'Content-Length: 27\nIdempotency-Key: "a"\nIdempotency-Key: "b"',
        "Content-Length: 27\nAuthorization: Bearer a\nAuthorization: Bearer b",
        "Content-Length : 27",
    ],
)
def test_requests_that_could_be_read_in_two_ways_are_refused(served: Served, more: str) -> None:
    status, answer = raw(served, f"{HEAD}\n{more}", BODY)

    assert 400 <= status < 500, answer
    assert answer.count(b"HTTP/1.1") == 1, "a second request was seen in the first one's body"


@pytest.mark.parametrize(
    "path",
    [
        "/v1/tools/Math.Add%2Fcalls",
        "/v1/tools/..%2F..%2Fv1%2Ftools%2FMath.Add/calls",
        "/v1/tools/../tools/Math.Add/calls",
        "/v1/tools//calls",
        "/v1/tools/Math.Add/calls/",
        "/v1/tools/Math.Add%00/calls",
        "/v1/tools/Math.Add%5Ccalls/calls",
        "//v1/tools/Math.Add/calls",
        "/V1/tools/Math.Add/calls",
    ],
)
def test_tricks_with_paths_lead_nowhere(served: Served, path: str) -> None:
    head = HEAD.replace(ADD, path) + "\nContent-Length: 27"

    status, answer = raw(served, head, BODY)

    assert status == 404, answer


@pytest.mark.parametrize("name", ["Übung", "数", "a" * 2000, "%F0%9F%98%80", "%FF", "x%0d%0aSet-Cookie:a=1", "a%20b"])
def test_odd_names_of_tools_are_just_not_there(served: Served, name: str) -> None:
    answer = served.client.post(f"/v1/tools/{name}/calls", content=BODY, headers=JSON)

    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_tool")
    assert "set-cookie" not in answer.headers


def test_an_odd_id_of_a_call_puts_nothing_into_headers(served: Served) -> None:
    for call_id in ("x%0d%0aSet-Cookie:%20a=1", "%00", "a" * 3000, "..", "%E2%80%AE"):
        answer = served.client.get(f"/v1/calls/{call_id}")
        assert answer.status_code in (400, 404)
        assert "set-cookie" not in answer.headers


def test_huge_headers_are_refused_or_passed_over(served: Served) -> None:
    status, _ = raw(served, f"{HEAD}\nContent-Length: 27\nX-Long: {'a' * 200_000}", BODY)
    many, _ = raw(served, f"{HEAD}\nContent-Length: 27\n" + "\n".join(f"X-{n}: 1" for n in range(500)), BODY)

    assert status in (0, 200, 400, 431)
    assert many in (200, 400, 431)
    assert served.client.get("/live").status_code == 200


def test_a_query_on_the_path_of_calls_is_refused(served: Served) -> None:
    answer = served.client.post(f"{ADD}?async=1", content=BODY, headers=JSON)

    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_query")


def test_what_breaks_in_the_gateway_is_a_problem_that_says_nothing_of_it(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*args: object, **more: object) -> None:
        raise RuntimeError("the password is hunter2")

    monkeypatch.setattr(served.service.calls, "run", broken)
    answer = served.client.post(ADD, content=BODY, headers=JSON)

    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert "hunter2" not in answer.text


def test_the_connection_stays_good_after_problems(served: Served) -> None:
    request = (
        f"POST {ADD} HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: 27\r\n\r\n".encode()
        + BODY
        + f"POST {ADD} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
        f"Content-Length: 27\r\n\r\n".encode()
        + BODY
    )

    answer = served.exchange(request)

    assert answer.count(b"HTTP/1.1 415") == 1
    assert answer.count(b"HTTP/1.1 200") == 1


def test_the_body_of_a_get_is_passed_over(served: Served) -> None:
    answer = served.client.request("GET", "/live", content=b"{}", headers=JSON)

    assert answer.status_code == 200
    assert json.loads(answer.text) == {"status": "live"}


def test_every_code_that_requests_are_refused_with_has_its_meaning() -> None:
    import ast
    from pathlib import Path

    from toolpost.transports import http_app
    from toolpost.transports.http_problem_pages import meanings

    used = set()
    for path in Path(http_app.__file__).parent.glob("http_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "HttpRefusal" and len(node.args) > 1:
                used |= {node.args[1].value} if isinstance(node.args[1], ast.Constant) else set()

    assert "origin_refused" in used
    assert used - set(meanings()) == set()


def test_the_page_about_http_names_every_code_member_and_path() -> None:
    from pathlib import Path

    from toolpost.transports import http_calls, http_health, http_tools
    from toolpost.transports.http_options import ACCEPTED, CALL, WHOM
    from toolpost.transports.http_problem_pages import OF_REQUESTS

    page = (Path(__file__).parents[2] / "docs" / "http.md").read_text()
    paths = {
        route.path.replace("call_id", "id")
        for module in (http_calls, http_health, http_tools)
        for route in module.ROUTES
    }

    missing = [name for name in {*OF_REQUESTS, *CALL, *WHOM, *ACCEPTED} if f"`{name}`" not in page]
    unnamed = [path for path in paths if not any(f"{path}{end}" in page for end in ("`", " "))]
    assert missing == unnamed == []
