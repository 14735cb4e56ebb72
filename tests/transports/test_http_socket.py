"""The WebSocket at /v1/stream: many calls over one connection, made, followed and cancelled."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.transports.gateway import Served, gateway
from tests.transports.test_http_streams import Gate, accepted, tools, until
from toolpost.transports import http_socket
from toolpost.transports.http_sse import Streams


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def served(gate: Gate) -> Iterator[Served]:
    with gateway(tools(gate), max_body_size=10_000) as one:
        try:
            yield one
        finally:
            gate.open()


def talk(served: Served, **options: Any) -> ClientConnection:
    return connect(f"ws://127.0.0.1:{served.port}/v1/stream", **options)


def say(socket: ClientConnection, **message: Any) -> None:
    socket.send(json.dumps(message))


def hear(socket: ClientConnection, kind: str | None = None) -> dict[str, Any]:
    """The next message, or the next of a kind."""
    while True:
        message: dict[str, Any] = json.loads(socket.recv(timeout=10))
        if kind in (None, message["type"]):
            return message


ADD = {"type": "call", "tool": "Quick.Add", "arguments": {"a": 1, "b": 2}}
COUNT = {"type": "call", "tool": "Slow.Count", "arguments": {"to": 3}}


class TestCalls:
    def test_a_call_is_made_and_told_of(self, served: Served, gate: Gate) -> None:
        gate.open()

        with talk(served) as socket:
            say(socket, **COUNT, ref="mine")
            made = hear(socket)
            told = []
            while (message := hear(socket))["type"] == "event":
                told.append(message)

        assert (made["type"], made["ref"]) == ("call", "mine")
        assert [one["event"] for one in told] == ["state", "progress", "log"]
        assert {(one["ref"], one["call_id"]) for one in told} == {("mine", made["call_id"])}
        assert (message["type"], message["ref"]) == ("result", "mine")
        assert message["report"]["data"] == {"result": 3}
        assert served.client.get(f"/v1/calls/{made['call_id']}").json() == message["report"]

    def test_many_calls_share_one_connection(self, served: Served, gate: Gate) -> None:
        with talk(served) as socket:
            say(socket, **COUNT, ref="slow")
            assert gate.began.wait(10)
            say(socket, **ADD, ref="quick")
            first = hear(socket, "result")
            gate.open()
            second = hear(socket, "result")

        assert (first["ref"], second["ref"]) == ("quick", "slow")

    def test_calls_end_with_the_connection(self, served: Served, gate: Gate) -> None:
        with talk(served) as socket:
            say(socket, **COUNT)
            call_id = hear(socket, "call")["call_id"]
            assert gate.began.wait(10)

        assert gate.cancelled.wait(10)
        until(served, "streams", 0)
        until(served, "followers", 0)
        assert served.client.get(f"/v1/calls/{call_id}", params={"wait": 10}).json()["state"] == "cancelled"

    def test_an_accepted_call_goes_on_and_is_followed_again(self, served: Served, gate: Gate) -> None:
        with talk(served) as socket:
            say(socket, **COUNT, respond_async=True, max_attempts=2)
            call_id = hear(socket, "call")["call_id"]
            last = hear(socket, "event")
            assert gate.began.wait(10)
        until(served, "streams", 0)
        gate.open()

        with talk(served) as socket:
            say(socket, type="follow", call_id=call_id, after=last["id"], ref="again")
            assert hear(socket)["type"] == "call"
            told = [hear(socket)]
            while told[-1]["type"] == "event":
                told.append(hear(socket))

        assert not gate.cancelled.is_set()
        assert all(one["id"] > last["id"] for one in told)
        assert (told[-1]["ref"], told[-1]["report"]["data"]) == ("again", {"result": 3})

    def test_a_call_is_cancelled_by_its_ref(self, served: Served, gate: Gate) -> None:
        with talk(served) as socket:
            say(socket, **COUNT, ref="mine")
            assert gate.began.wait(10)
            say(socket, type="cancel", ref="mine")
            said = hear(socket, "cancelled")
            result = hear(socket, "result")

        assert said["call_id"] == result["call_id"]
        assert result["report"]["state"] == "cancelled"

    def test_what_is_followed_can_be_left(self, served: Served, gate: Gate) -> None:
        call_id = accepted(served)

        with talk(served) as socket:
            say(socket, type="follow", call_id=call_id)
            hear(socket, "event")
            say(socket, type="unfollow", call_id=call_id)
            assert hear(socket, "unfollowed")["call_id"] == call_id
            until(served, "followers", 0)

        assert not gate.cancelled.is_set()

    def test_a_refused_call_has_a_result_that_says_so(self, served: Served) -> None:
        with talk(served) as socket:
            say(socket, type="call", tool="Quick.Add", arguments={"a": "x"}, ref="bad")
            result = hear(socket, "result")

        assert (result["report"]["state"], result["report"]["error"]["code"]) == ("rejected", "invalid_input")

    def test_a_ref_is_one_calls_at_a_time(self, served: Served, gate: Gate) -> None:
        with talk(served) as socket:
            say(socket, **COUNT, ref="mine")
            assert gate.began.wait(10)
            say(socket, **ADD, ref="mine")
            refused = hear(socket, "error")
            gate.open()
            hear(socket, "result")
            say(socket, **ADD, ref="mine")

            assert hear(socket, "result")["report"]["data"] == {"result": 3}
        assert (refused["problem"]["code"], refused["problem"]["status"]) == ("conflict", 409)

    def test_calls_of_one_connection_are_bounded(
        self, served: Served, gate: Gate, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(http_socket, "MAX_OPEN", 2)

        with talk(served) as socket:
            for n in range(3):
                say(socket, **COUNT, ref=str(n))
            refused = hear(socket, "error")

        assert (refused["ref"], refused["problem"]["code"]) == ("2", "overloaded")

    def test_a_client_that_does_not_read_has_nothing_kept_for_it(self, served: Served, gate: Gate) -> None:
        with talk(served, max_queue=1, compression=None) as socket:
            say(socket, type="call", tool="Slow.Talk", arguments={"lines": 5000})
            gate.wait_open()
            told = []
            while (message := hear(socket))["type"] != "result":
                told.append(message)

        assert any("dropped" in one.get("data", {}) for one in told)
        assert len(told) < 5000


class TestMessages:
    def test_a_ping_is_answered(self, served: Served) -> None:
        with talk(served) as socket:
            say(socket, type="ping", ref="one")

            assert hear(socket) == {"type": "pong", "ref": "one"}

    @pytest.mark.parametrize(
        ("text", "pointer"),
        [
            ("{", None),
            ("[]", "#"),
            ('{"type": "dance"}', "#/type"),
            ('{"type": ["call"]}', "#/type"),
            ('{"type": "call", "arguments": {}}', "#/tool"),
            ('{"type": "call", "tool": "Quick.Add", "arguments": 1}', "#/arguments"),
            ('{"type": "call", "tool": "Quick.Add", "arguments": {}, "priority": 1}', "#/priority"),
            ('{"type": "call", "tool": "Quick.Add", "respond_async": 1}', "#/respond_async"),
            ('{"type": "ping", "ref": 1}', "#/ref"),
            ('{"type": "ping", "more": 1}', "#/more"),
            ('{"type": "follow"}', "#/call_id"),
            ('{"type": "follow", "call_id": "x", "after": 1}', "#/after"),
            ('{"type": "cancel"}', "#/call_id"),
            ('{"type": "cancel", "call_id": 1}', "#/call_id"),
            ('{"type": "ping", "type": "ping"}', None),
        ],
    )
    def test_what_is_no_message_is_told_and_the_talk_goes_on(
        self, served: Served, text: str, pointer: str | None
    ) -> None:
        with talk(served) as socket:
            socket.send(text)
            refused = hear(socket)
            say(socket, type="ping")

            assert hear(socket)["type"] == "pong"
        assert (refused["type"], refused["problem"]["status"]) == ("error", 400)
        if pointer is not None:
            assert refused["problem"]["errors"][0]["pointer"] == pointer

    @pytest.mark.parametrize("kind", ["follow", "cancel"])
    def test_a_call_that_is_not_there_is_told(self, served: Served, kind: str) -> None:
        with talk(served) as socket:
            say(socket, type=kind, call_id="0198c0de-0000-7000-8000-000000000001", ref="x")

            assert hear(socket)["problem"]["code"] == "not_found"

    @pytest.mark.parametrize(
        ("message", "code"), [("x" * 10_001, 1009), (b"{}", 1003)], ids=["too large", "not a text"]
    )
    def test_what_cannot_be_read_ends_the_connection(self, served: Served, message: Any, code: int) -> None:
        with talk(served) as socket:
            socket.send(message)
            with pytest.raises(ConnectionClosed):
                socket.recv(timeout=10)

            assert socket.close_code == code


class TestWhoMayTalk:
    def test_a_key_says_who_calls(self, gate: Gate) -> None:
        with gateway(tools(gate), authentication="required") as served:
            keys = served.executor.api_keys
            ann, bob = (keys.create(user_id=name).secret for name in ("ann", "bob"))

            with talk(served, additional_headers={"Authorization": f"Bearer {ann}"}) as socket:
                say(socket, **ADD)
                report = hear(socket, "result")["report"]
            with talk(served, additional_headers={"Authorization": f"Bearer {bob}"}) as socket:
                say(socket, type="follow", call_id=report["call_id"])
                other = hear(socket)

        assert report["user_id"] == "ann"
        assert other["problem"]["code"] == "not_found"

    def test_a_browser_sends_its_key_as_a_subprotocol(self, gate: Gate) -> None:
        with gateway(tools(gate), authentication="required") as served:
            key = served.executor.api_keys.create(user_id="ann").secret

            with talk(served, subprotocols=["toolpost.v1", f"toolpost.bearer.{key}"]) as socket:
                say(socket, **ADD)
                report = hear(socket, "result")["report"]

                assert socket.subprotocol == "toolpost.v1"
        assert report["user_id"] == "ann"

    def test_a_key_that_is_revoked_ends_the_connection_at_its_next_message(self, gate: Gate) -> None:
        with gateway(tools(gate), authentication="required") as served:
            key = served.executor.api_keys.create(user_id="ann")

            with talk(served, subprotocols=["toolpost.v1", f"toolpost.bearer.{key.secret}"]) as socket:
                say(socket, **ADD)
                assert hear(socket, "result")["report"]["success"]
                served.executor.api_keys.revoke(key.key.id)
                say(socket, **ADD, ref="late")
                problem = hear(socket)
                with pytest.raises(ConnectionClosed):
                    socket.recv(timeout=10)

            assert (problem["ref"], problem["problem"]["code"]) == ("late", "unauthenticated")
            assert socket.close_code == 1008

    def test_who_needed_no_key_needs_one_once_the_setting_says_so(self, served: Served) -> None:
        with talk(served) as socket:
            say(socket, type="ping")
            assert hear(socket)["type"] == "pong"
            served.executor.config.authentication = "required"
            say(socket, **ADD)

            assert hear(socket)["problem"]["code"] == "unauthenticated"

    def test_nobody_is_not_let_in(self, gate: Gate) -> None:
        with gateway(tools(gate), authentication="required", audit="on") as served:
            with pytest.raises(InvalidStatus) as refused, talk(served):
                pass
            rows = [row.body for row in served.executor.audit.newest(20)]

        assert [row for row in rows if b"WEBSOCKET /v1/stream" in row and b"unauthenticated" in row]
        assert refused.value.response.status_code == 401
        assert json.loads(refused.value.response.body)["code"] == "unauthenticated"

    def test_pages_of_elsewhere_are_not_let_in(self, served: Served) -> None:
        with pytest.raises(InvalidStatus) as refused, talk(served, origin="https://evil.example"):
            pass

        assert refused.value.response.status_code == 403

    def test_pages_of_the_gateway_are_let_in(self, served: Served) -> None:
        with talk(served, origin=served.url) as socket:
            say(socket, type="ping")

            assert hear(socket)["type"] == "pong"


def test_all_messages_are_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "streaming.md").read_text(encoding="utf-8")

    said = set(re.findall(r'"type": "(\w+)"', page))
    assert said >= {"call", "cancel", "follow", "unfollow", "ping", "pong", "event", "result", "error", "cancelled"}
    assert f"{http_socket.MAX_OPEN} calls" in page


class TestTheEnd:
    def test_a_connection_without_calls_of_its_own_is_closed_with_the_process(self, served: Served) -> None:
        served.app.door.state["streams"] = Streams(served.service, beat_s=0.02, slots=1)

        with talk(served) as socket:
            served.service.draining = True
            with pytest.raises(ConnectionClosed):
                socket.recv(timeout=10)

            assert (socket.close_code, socket.close_reason) == (1012, "the server restarts")

    def test_calls_that_run_are_told_to_their_end_first(self, served: Served, gate: Gate) -> None:
        streams = served.app.door.state["streams"] = Streams(served.service, beat_s=0.02, slots=1)

        with talk(served) as socket:
            say(socket, **COUNT)
            assert gate.began.wait(10)
            served.service.draining = True
            before = streams._turn
            while streams._turn < before + 3:
                pass
            say(socket, **ADD, ref="late")
            late = hear(socket, "result")
            gate.open()
            result = hear(socket, "result")
            with pytest.raises(ConnectionClosed):
                socket.recv(timeout=10)

        assert late["report"]["error"]["code"] == "overloaded"
        assert result["report"]["data"] == {"result": 3}
        assert socket.close_code == 1012
