"""Who calls over HTTP: keys and tokens, those who have none, and what they may say of themselves."""

import logging
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.transports.gateway import Served, gateway
from tests.transports.http_shop import TOOLS
from toolpost.transports.http_auth import is_loopback

WHO = "/v1/tools/Who.Am.I/calls"


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with gateway(TOOLS, authentication="required", audit="on") as one:
        yield one


@pytest.fixture(scope="module")
def key(served: Served) -> str:
    return served.executor.api_keys.create(user_id="anna", tenant="acme", scopes=["admin:wipe"]).secret


@pytest.fixture(scope="module")
def unasked() -> Iterator[Served]:
    with gateway(TOOLS) as one:
        yield one


def who(served: Served, body: dict[str, Any] | None = None, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return served.client.post(WHO, json=body or {}, headers=named)


# -- keys -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["Bearer {}", "bearer {}", "ApiKey {}", "Bearer   {} "])
def test_a_key_says_who_calls(served: Served, key: str, form: str) -> None:
    head = f"POST {WHO} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: {form.format(key)}\r\n\r\n"

    answer = served.exchange(head.encode()).decode()

    assert answer.startswith("HTTP/1.1 200")
    assert '"user":"anna","tenant":"acme"' in answer


def test_a_key_may_come_in_a_header_of_its_own(served: Served, key: str) -> None:
    assert who(served, x_api_key=key).json()["data"]["user"] == "anna"


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({}, "missing"),
        ({"authorization": ""}, "missing"),
        ({"authorization": "Bearer"}, None),
        ({"authorization": "Bearer nothing"}, "unsupported_token"),
        ({"authorization": "Basic YTpi"}, "unsupported_scheme"),
        ({"authorization": "Bearer tp_0123456789abcdef_" + "a" * 49}, "malformed"),
        ({"x_api_key": "tp_" + "x" * 66}, "malformed"),
        ({"x_api_key": "x"}, "malformed"),
    ],
)
def test_who_does_not_say_who_calls_is_challenged(served: Served, headers: dict[str, str], reason: str | None) -> None:
    answer = who(served, **headers)

    assert answer.status_code == 401
    assert answer.json()["code"] == "unauthenticated"
    challenged = answer.headers["www-authenticate"]
    assert challenged.startswith('Bearer realm="toolpost"')
    if reason is not None:
        assert answer.json()["details"]["reason"] == reason
        assert ('error="invalid_token"' in challenged) == (reason != "missing")


def test_two_keys_at_once_are_refused(served: Served, key: str) -> None:
    answer = who(served, authorization=f"Bearer {key}", x_api_key=key)

    assert (answer.status_code, answer.json()["details"]["reason"]) == (401, "ambiguous")


@pytest.mark.parametrize("path", ["/v1/tools", "/v1/calls", "/v1/calls/x", "/metrics", "/v1/calls/x/explain"])
def test_every_path_but_the_public_ones_asks_for_a_key(served: Served, path: str) -> None:
    assert served.client.get(path).status_code == 401


@pytest.mark.parametrize("path", ["/live", "/ready", "/health", "/problems/denied"])
def test_public_paths_ask_for_none(served: Served, path: str) -> None:
    assert served.client.get(path).status_code == 200


def test_a_key_that_is_revoked_is_refused_at_once(served: Served) -> None:
    made = served.executor.api_keys.create(user_id="ben")

    before = [who(served, x_api_key=made.secret).status_code for _ in range(3)]
    served.executor.api_keys.revoke(made.key.id)
    after = who(served, x_api_key=made.secret)

    assert before == [200, 200, 200]
    assert (after.status_code, after.json()["details"]["reason"]) == (401, "revoked")


def test_a_refusal_at_the_door_is_in_the_audit_log_and_no_log_has_the_key(
    served: Served, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = key[:-1] + ("a" if key[-1] != "a" else "b")
    with caplog.at_level(logging.DEBUG):
        answer = who(served, x_api_key=wrong, x_request_id="refused-1")
        who(served, x_api_key=key)
        served.client.get("/v1/calls", headers={"authorization": f"Bearer {wrong}"})

    assert answer.status_code == 401
    rows = [row.body for row in served.executor.audit.newest(20)]
    assert [row for row in rows if b'"refused-1"' in row and b"unauthenticated" in row]
    assert not [row for row in rows if wrong.encode() in row]
    assert key not in caplog.text
    assert wrong not in caplog.text
    assert wrong not in answer.text


def test_a_body_is_not_read_of_whom_nobody_knows(served: Served) -> None:
    answer = served.client.post(WHO, content=b"{", headers={"content-type": "application/json"})

    assert answer.status_code == 401


# -- what a caller may say of itself ----------------------------------------------------------------------------------


def test_a_caller_may_name_its_session_and_nothing_else(served: Served, key: str) -> None:
    in_header = who(served, x_api_key=key, toolpost_session="s-1").json()["data"]
    in_body = who(served, {"session_id": "s-2", "task_id": "t-1"}, x_api_key=key).json()["data"]
    both = who(served, {"session_id": "s-2"}, x_api_key=key, toolpost_session="s-1")
    another = who(served, {"user_id": "eve"}, x_api_key=key)

    assert in_header["session"] == "s-1"
    assert (in_body["session"], in_body["task"]) == ("s-2", "t-1")
    assert (both.status_code, both.json()["errors"][0]["pointer"]) == (400, "#/session_id")
    assert (another.status_code, another.json()["errors"][0]["pointer"]) == (400, "#/user_id")


def test_what_a_model_writes_of_the_caller_does_not_count(served: Served, key: str) -> None:
    calls = [{"tool": "Who.Am.I", "arguments": {}, "user_id": "eve", "tenant": "other", "session_id": "s-3"}]

    [result] = served.client.post("/v1/calls", json=calls, headers={"x-api-key": key}).json()

    assert (result["data"]["user"], result["data"]["tenant"], result["data"]["session"]) == ("anna", "acme", "s-3")


@pytest.mark.parametrize("session", ["", "a b", "x" * 257, "\u00e4"])
def test_a_session_that_is_no_word_is_refused(served: Served, key: str, session: str) -> None:
    for method, path in (("POST", WHO), ("GET", "/v1/tools")):
        answer = served.client.request(
            method, path, headers={"x-api-key": key, "toolpost-session": session.encode("latin-1")}
        )
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_header")


def test_callers_see_their_own_calls_and_operators_all_of_their_tenant(served: Served, key: str) -> None:
    keys = served.executor.api_keys
    other = keys.create(user_id="ben", tenant="acme").secret
    operator = keys.create(user_id="olga", tenant="acme", scopes=["toolpost:operate"]).secret
    stranger = keys.create(user_id="olga", tenant="other", scopes=["toolpost:operate"]).secret
    call_id = who(served, x_api_key=key).json()["call_id"]

    seen = [
        served.client.get(f"/v1/calls/{call_id}", headers={"x-api-key": one}).status_code
        for one in (key, other, operator, stranger)
    ]

    assert seen == [200, 404, 200, 404]


def test_a_tool_that_a_caller_may_not_call_is_refused_with_403(served: Served, key: str) -> None:
    plain = served.executor.api_keys.create(user_id="ben").secret

    denied = served.client.post("/v1/tools/Admin.Wipe/calls", headers={"x-api-key": plain})
    granted = served.client.post("/v1/tools/Admin.Wipe/calls", headers={"x-api-key": key})

    assert (denied.status_code, denied.json()["code"], granted.status_code) == (403, "denied", 200)


# -- where nobody is asked --------------------------------------------------------------------------------------------


def test_on_this_machine_only_callers_may_say_who_they_are_but_never_what_they_may(unasked: Served) -> None:
    named = who(unasked, {"user_id": "anna", "tenant": "acme"}, toolpost_session="s-1")
    nobody = who(unasked)
    scopes = who(unasked, {"user_id": "anna", "scopes": ["admin:wipe"]})
    wiping = unasked.client.post("/v1/calls", json={"tool": "Admin.Wipe", "user_id": "anna", "scopes": ["admin:wipe"]})

    assert named.json()["data"] == {"user": "anna", "tenant": "acme", "session": "s-1", "task": None}
    assert nobody.status_code == 401
    assert scopes.status_code == 400
    assert wiping.status_code == 400
    assert unasked.client.post("/v1/tools/Admin.Wipe/calls", json={"user_id": "anna"}).status_code in (401, 403)


def test_where_nobody_is_asked_everybody_sees_all_calls(unasked: Served) -> None:
    call_id = who(unasked, {"user_id": "anna", "tenant": "acme"}).json()["call_id"]

    assert unasked.client.get(f"/v1/calls/{call_id}").json()["user_id"] == "anna"


def test_a_key_that_comes_unasked_counts_and_must_be_good(unasked: Served) -> None:
    key = unasked.executor.api_keys.create(user_id="ben").secret

    assert who(unasked, x_api_key=key).json()["data"]["user"] == "ben"
    assert who(unasked, x_api_key="tp_bad").status_code == 401


@pytest.mark.parametrize("field", ["forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip"])
def test_what_a_proxy_passes_on_to_this_machine_needs_a_key(unasked: Served, field: str) -> None:
    key = unasked.executor.api_keys.create(user_id="eve").secret

    without = unasked.client.post(WHO, headers={field: "203.0.113.9"})
    listed = unasked.client.get("/v1/calls", headers={field: "203.0.113.9"})
    with_it = unasked.client.post(WHO, headers={field: "203.0.113.9", "x-api-key": key})
    health = unasked.client.get("/health", headers={field: "203.0.113.9"}).json()

    assert (without.status_code, listed.status_code, with_it.status_code) == (401, 401, 200)
    assert health.keys() == {"status", "ready"}
    assert "trusted_proxies" in without.json()["detail"]
    assert without.headers["www-authenticate"] == 'Bearer realm="toolpost"'


def test_where_nobody_is_asked_proxies_may_pass_on_what_they_like() -> None:
    with gateway(TOOLS, authentication="none") as served:
        assert served.client.get("/v1/calls", headers={"x-forwarded-for": "203.0.113.9"}).status_code == 200


def test_without_authentication_nothing_that_comes_is_looked_at() -> None:
    with gateway(TOOLS, authentication="none", listens_on="0.0.0.0") as served:
        answer = who(served, {"user_id": "anna"}, authorization="Bearer of-some-proxy")

    assert answer.json()["data"]["user"] == "anna"


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("localhost", True),
        ("/run/toolpost.sock", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("tools.example", False),
    ],
)
def test_which_addresses_only_this_machine_reaches(address: str, local: bool) -> None:
    assert is_loopback(address) == local


def test_listening_on_more_than_this_machine_asks_for_keys() -> None:
    with gateway(TOOLS, listens_on="0.0.0.0") as served:
        answers = [who(served, {"user_id": "anna"}).status_code, served.client.get("/v1/tools").status_code]
        served.executor.config.authentication = "none"
        after = who(served, {"user_id": "anna"}).status_code

    assert answers == [401, 401]
    assert after == 200


# -- WebSockets -------------------------------------------------------------------------------------------------------


def shaken(served: Served, path: str = "/v1/stream", host: str = "localhost", **headers: str) -> bytes:
    """What a WebSocket's handshake is answered with, to the end of its headers."""
    more = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    with served.connect() as connection:
        connection.sendall(
            f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{more}\r\n".encode()
        )
        answer = b""
        while b"\r\n\r\n" not in answer and (part := connection.recv(65536)):
            answer += part
    return answer


def test_a_socket_is_opened_by_whom_a_key_names_in_a_header_or_as_browsers_send_it(served: Served, key: str) -> None:
    in_header = shaken(served, x_api_key=key)
    in_protocol = shaken(served, sec_websocket_protocol=f"toolpost.v1, toolpost.bearer.{key}")

    assert in_header.startswith(b"HTTP/1.1 101")
    assert in_protocol.startswith(b"HTTP/1.1 101")
    assert key.encode() not in in_protocol


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, b"401"),
        ({"x_api_key": "no"}, b"401"),
        ({"sec_websocket_protocol": "toolpost.v1, toolpost.bearer.no"}, b"401"),
        ({"sec_websocket_protocol": "toolpost.bearer.a, toolpost.bearer.b"}, b"401"),
        ({"host": "evil.example"}, b"421"),
        ({"origin": "https://evil.example"}, b"403"),
        ({"path": "/v1/nothing"}, b"404"),
    ],
)
def test_a_socket_is_refused_with_a_problem(served: Served, headers: dict[str, str], status: bytes) -> None:
    answer = shaken(served, **headers)

    assert answer.startswith(b"HTTP/1.1 " + status), answer
    assert b"application/problem+json" in answer
