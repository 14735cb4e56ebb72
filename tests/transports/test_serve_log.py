"""The access log: what a line has, what it never has, and that nothing breaks by it."""

from __future__ import annotations

import asyncio
import logging
import os
import pty
import re
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.transports.serving import serving
from toolpost.transports import serve_log
from toolpost.transports.serve_log import AccessLog, Lines, note, open_access_log

SECRET = "tp_0123456789abcdef_secretsecretsecret"


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answers with what it was sent, and tells the log of it."""
    note(scope, route="/v1/{thing}", user="ada", tenant="acme", call_id="c-1")
    body = (await receive()).get("body", b"")
    await send({"type": "http.response.start", "status": 201, "headers": []})
    await send({"type": "http.response.body", "body": body * 2})


def scope_of(**more: Any) -> dict[str, Any]:
    headers = [
        (b"authorization", f"Bearer {SECRET}".encode()),
        (b"user-agent", b"tests/1"),
        (b"traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
    ]
    plain = {"type": "http", "method": "POST", "path": "/v1/things", "query_string": b"", "headers": headers}
    return {**plain, "client": ("192.0.2.7", 4711), **more}


def asked(log: AccessLog, scope: dict[str, Any], body: bytes = b"", answers: Any = app) -> None:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body}

    async def send(message: dict[str, Any]) -> None:
        return None

    asyncio.run(log.wrap(answers)(scope, receive, send))


def logged(path: Path, *scopes: dict[str, Any], body: bytes = b"", answers: Any = app) -> list[dict[str, Any]]:
    """The lines of requests."""
    log = AccessLog(Lines(str(path)))
    for scope in scopes:
        asked(log, scope, body, answers)
    log.close()
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


def test_a_line_says_what_was_asked_by_whom_and_what_came_of_it(tmp_path: Path) -> None:
    [line] = logged(tmp_path / "access.log", scope_of(), body=b"12345")

    assert line.pop("duration_ms") >= 0
    assert line.pop("time").endswith("Z")
    assert line == {
        "method": "POST",
        "route": "/v1/{thing}",
        "path": "/v1/things",
        "status": 201,
        "bytes_in": 5,
        "bytes_out": 10,
        "trace": "4bf92f3577b34da6a3ce929d0e0e4736",
        "client": "192.0.2.7",
        "user_agent": "tests/1",
        "user": "ada",
        "tenant": "acme",
        "call_id": "c-1",
    }


def test_bodies_tokens_and_values_of_a_query_are_not_in_it(tmp_path: Path) -> None:
    query = f"limit=3&signature={SECRET}&key={SECRET}&{SECRET * 3}=1".encode()
    [line] = logged(tmp_path / "access.log", scope_of(query_string=query), body=SECRET.encode())

    assert line["query"] == "limit=3&signature=*&key=*&*=*"
    assert SECRET not in (tmp_path / "access.log").read_text()


def test_lines_cannot_be_forged(tmp_path: Path) -> None:
    forged = '/x\n{"status": 200}\x1b[2J\u202e'
    log = AccessLog(Lines(str(tmp_path / "text.log")), text=True)
    asked(log, scope_of(path=forged, query_string=b"limit=\n1"))
    log.close()
    [line] = logged(tmp_path / "access.log", scope_of(path=forged, headers=[(b"user-agent", b"a\nb")]))

    assert line["path"] == "/x%0A%7B%22status%22:%20200%7D%1B%5B2J%E2%80%AE".replace("%7B", "{").replace("%7D", "}")
    assert (tmp_path / "text.log").read_text().count("\n") == 1


def test_an_application_that_breaks_is_logged_with_500_and_the_error_goes_on(tmp_path: Path) -> None:
    async def breaks(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("broken")

    log = AccessLog(Lines(str(tmp_path / "access.log")))
    with pytest.raises(RuntimeError, match="broken"):
        asked(log, scope_of(), answers=breaks)
    log.close()

    assert orjson.loads((tmp_path / "access.log").read_bytes())["status"] == 500


def test_a_full_disk_is_said_once_and_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    lines = Lines("/dev/full")

    with caplog.at_level(logging.WARNING, "toolpost.serve"):
        lines.write([b"one\n"])
        lines.write([b"two\n", b"three\n"])
    lines.close()

    assert [record.getMessage() for record in caplog.records] == [
        "the access log cannot be written ([Errno 28] No space left on device); requests are answered all the same"
    ]
    assert lines.lost == 3


def test_a_file_that_was_moved_away_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    lines = Lines(str(path))
    lines.write([b"before\n"])
    path.rename(tmp_path / "access.log.1")
    lines.write([b"after\n"])
    lines.close()

    assert (tmp_path / "access.log.1").read_text() == "before\n"
    assert path.read_text() == "after\n"


def test_a_pipe_gets_whole_lines_in_pieces_that_other_processes_cannot_cut() -> None:
    reading, writing = os.pipe()
    lines = Lines(writing)
    written: list[int] = []
    real = os.write

    def counted(fd: int, data: bytes) -> int:
        written.append(len(data))
        return real(fd, data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(serve_log.os, "write", counted)
        lines.write([b"x" * 999 + b"\n"] * 10)
    os.close(writing)

    with open(reading, "rb") as pipe:
        assert pipe.read() == (b"x" * 999 + b"\n") * 10
    assert written == [4000, 4000, 2000]


def test_lines_beyond_what_can_wait_are_counted_and_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(serve_log, "MAX_WAITING", 2)
    monkeypatch.setattr(serve_log, "BATCH_S", 3600.0)
    monkeypatch.setattr(serve_log.threading.Thread, "start", lambda thread: None)
    monkeypatch.setattr(serve_log.threading.Thread, "join", lambda thread, timeout=None: None)
    log = AccessLog(Lines(str(tmp_path / "access.log")))
    for _ in range(5):
        asked(log, scope_of())
    with caplog.at_level(logging.WARNING, "toolpost.serve"):
        log.close()

    assert len((tmp_path / "access.log").read_text().splitlines()) == 2
    assert "3 lines are lost" in caplog.text


@pytest.mark.parametrize(("where", "is_there"), [("none", False), ("stderr", True)])
def test_it_goes_where_the_setting_says(where: str, is_there: bool) -> None:
    log = open_access_log(where, "json")

    assert (log is not None) == is_there
    if log is not None:
        log.close()


def test_people_on_a_terminal_get_text() -> None:
    ours, theirs = pty.openpty()
    log = open_access_log("stdout", "auto", theirs)
    assert log is not None
    asked(log, scope_of(query_string=b"limit=3"))
    log.close()
    os.close(theirs)

    line = os.read(ours, 1000).decode()
    os.close(ours)
    assert re.fullmatch(r"\d\d:\d\d:\d\d POST /v1/things\?limit=3 201 \d+\.\d ms acme/ada c-1\r\n", line)


def test_a_gateway_writes_a_line_for_each_request(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    open_to_all = "--set=authentication=none"  # whoever comes by way of another needs a key else
    behind = ("--set=trusted_proxies=127.0.0.1", open_to_all, f"--access-log={path}")
    with serving(open_to_all, folder=tmp_path) as gateway, serving(*behind, folder=tmp_path) as other:
        first = gateway.call("add", a=1, headers={"user-agent": "tests/2", "x-forwarded-for": "198.51.100.9"})
        answered = len(first.content)
        gateway.call("nothing")
        other.call("add", a=1, headers={"x-forwarded-for": "203.0.113.1, 198.51.100.9"})
        for one in (gateway, other):
            one.signal(15)
            assert one.ends() == 0
        lines = gateway.lines()

    assert [(line["method"], line["route"], line["status"]) for line in lines] == [
        ("POST", "/v1/tools/{name}/calls", 200),
        ("POST", "/v1/tools/{name}/calls", 404),
    ]
    assert lines[0]["user_agent"] == "tests/2"
    assert lines[1]["code"] == "unknown_tool"
    assert lines[0]["client"] == "127.0.0.1"
    assert orjson.loads(path.read_bytes())["client"] == "198.51.100.9"
    assert lines[0]["bytes_out"] == answered
    assert re.fullmatch(r"[0-9a-f-]{36}", lines[0]["call_id"])
