"""`toolpost run` through a gateway: what comes out is what comes out in this process."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.transports.cli_shop import HERE as SHOP, a_call, environment, invoke, read_results, write_calls
from tests.transports.serving import Gateway, refused, serving
from tests.transports.test_cli_run import MIXED

STRICT = {
    "role": "assistant",
    "content": None,
    "tool_calls": [
        {"id": "s1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1, "b": null}'}},
    ],
}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with serving("--access-log=none", folder=tmp_path_factory.mktemp("gateway"), tools=SHOP) as there:
        yield there


def told(results: Path) -> list[tuple[Any, ...]]:
    """What each result says, but for ids and times."""
    names = ("line", "index", "of", "format", "status", "code", "source", "attempts", "tool_name", "data", "error")
    return [tuple(record.get(name) for name in names) for record in read_results(results)]


def test_results_are_those_of_a_run_in_this_process(gateway: Gateway, tmp_path: Path) -> None:
    calls = write_calls(tmp_path / "calls.jsonl", [*MIXED, STRICT, {**a_call("told"), "task_id": "t"}])
    here, there = tmp_path / "here.jsonl", tmp_path / "there.jsonl"
    first = invoke("run", f"{calls}", "-o", f"{here}", "--user", "ada")
    second = invoke("run", f"{calls}", "-o", f"{there}", "--user", "ada", "--server", gateway.url)

    assert (first.exit_code, second.exit_code) == (4, 4), second.output
    assert told(there) == told(here)


def test_results_come_in_the_form_of_their_calls_as_well(gateway: Gateway, tmp_path: Path) -> None:
    calls = write_calls(tmp_path / "calls.jsonl", MIXED)
    same = ("--results-format", "same")
    here, there = tmp_path / "here.jsonl", tmp_path / "there.jsonl"
    invoke("run", f"{calls}", "-o", f"{here}", *same)
    invoke("run", f"{calls}", "-o", f"{there}", *same, "--server", gateway.url)

    def results(path: Path) -> list[Any]:
        return [record["result"] for record in read_results(path) if record["format"] in ("openai", "anthropic", "mcp")]

    assert results(there) == results(here)


def test_a_gateway_is_started_for_the_run_and_ended_after_it(tmp_path: Path) -> None:
    calls = write_calls(tmp_path / "calls.jsonl", [a_call("add", a=n) for n in range(20)])
    results = tmp_path / "results.jsonl"

    ended = refused("run", f"{calls}", "-o", f"{results}", "--serve", folder=tmp_path, tools=SHOP)

    assert ended.returncode == 0, ended.stderr
    assert "the gateway answers at http://127.0.0.1:" in ended.stderr
    assert [record["data"] for record in read_results(results)] == [{"result": n + 2} for n in range(20)]
    assert {path.name for path in tmp_path.iterdir()} == {"calls.jsonl", "results.jsonl"}


def test_a_gateway_that_does_not_start_says_why(tmp_path: Path) -> None:
    calls = write_calls(tmp_path / "calls.jsonl", [a_call("add", a=1)])

    ended = refused("run", f"{calls}", "--serve", "--set", "serve_workers=0", folder=tmp_path, tools=SHOP)

    assert ended.returncode == 2
    assert "serve_workers must be a whole number" in ended.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--server", "http://127.0.0.1:9"), "no gateway answers at http://127.0.0.1:9"),
        (("--server", "http://127.0.0.1:9", "--serve"), "give one of them"),
        (("--serve", "--scope", "x"), "--scope is for runs without a gateway"),
    ],
)
def test_what_cannot_be_is_refused(options: tuple[str, ...], said: str, tmp_path: Path) -> None:
    calls = write_calls(tmp_path / "calls.jsonl", [a_call("add", a=1)])

    ended = invoke("run", f"{calls}", *options)

    assert ended.exit_code == 2
    assert said in ended.stderr


def test_a_key_is_taken_from_the_environment(tmp_path: Path) -> None:
    calls = write_calls(tmp_path / "calls.jsonl", [a_call("told")])
    key = refused("keys", "create", "--user", "ada", "--data", "toolpost-data", folder=tmp_path).stdout.strip()
    with serving("--set", "authentication=required", folder=tmp_path, tools=SHOP) as gateway:
        without = refused("run", f"{calls}", "--server", gateway.url, folder=tmp_path, tools=SHOP)
        results = ("-o", "results.jsonl")
        run = ("run", f"{calls}", *results, "--server", gateway.url)
        with_it = refused(*run, folder=tmp_path, tools=SHOP, TOOLPOST_API_KEY=key)

    assert without.returncode == 2
    assert "wants an API key; put one into TOOLPOST_API_KEY" in without.stderr
    assert with_it.returncode == 0, with_it.stderr
    assert read_results(tmp_path / "results.jsonl")[0]["data"]["user"] == "ada"
    assert key not in environment()


class Odd(http.server.BaseHTTPRequestHandler):
    """Lists a tool as a gateway does, and answers each call with the next of these."""

    answers: ClassVar[list[tuple[int, bytes]]] = []
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self._send(200, b'{"tools": [{"name": "add", "parameters": {}}]}')

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.asked.append(self.path)
        self._send(*self.answers.pop(0))

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.send_header("retry-after", "0")
        self.send_header("location", "http://127.0.0.1:9/")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_answers_that_no_gateway_gives_are_results_and_no_call_is_sent_twice(tmp_path: Path) -> None:
    refused = b'{"code": "overloaded", "detail": "later", "retryable": true}'
    Odd.answers = [(503, refused), (502, b"<html>"), (200, b"[]"), (307, b""), (200, b'[{"success": true, "data": 1}]')]
    Odd.asked.clear()
    calls = write_calls(tmp_path / "calls.jsonl", [a_call("add", a=n) for n in range(5)])
    results = tmp_path / "results.jsonl"
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Odd) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        ended = invoke("run", f"{calls}", "-o", f"{results}", "--server", url, "--concurrency", "1")
        server.shutdown()
        thread.join()

    assert ended.exit_code == 4, ended.output
    assert [(one.get("code"), one["status"]) for one in read_results(results)] == [
        ("overloaded", "rejected"),
        ("http_error", "failed"),
        ("upstream_failed", "failed"),
        ("upstream_failed", "failed"),
        (None, "ok"),
    ]
    assert len(Odd.asked) == 5
