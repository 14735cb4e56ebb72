"""What the tests of gateways share: gateways as processes that can be waited for."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import orjson

from tests.transports.cli_shop import environment

SHOP = Path(__file__).resolve().with_name("serve_shop.py")
HERE = f"{SHOP}:ALL"
LIMITED = f"{SHOP}:LIMITED_ALL"
PATIENCE_S = 30.0


class Pipes:
    """Two pipes by which a call of hold is met and let go."""

    def __init__(self, folder: Path) -> None:
        self.reached, self.release = folder / "reached", folder / "release"
        for path in (self.reached, self.release):
            os.mkfifo(path)

    @property
    def arguments(self) -> dict[str, str]:
        return {"reached": str(self.reached), "release": str(self.release)}

    def wait(self) -> int:
        """Wait until the call runs; the process that runs it."""
        return int(self.reached.read_text())

    def let_go(self, text: str = "let go") -> None:
        self.release.write_text(text)


class Running:
    """A program that runs beside the test, and what it has said."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self._said: list[str] = []
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._news:
                self._said.append(line.decode())
                self._news.notify_all()
        with self._news:
            self._said.append("(the end)")
            self._news.notify_all()

    def says(self, pattern: str, times: int = 1) -> str:
        """The line of its standard error that has this, once it is there."""

        def found() -> list[str]:
            return [line for line in self._said if re.search(pattern, line)]

        with self._news:
            self._news.wait_for(lambda: len(found()) >= times or "(the end)" in self._said, PATIENCE_S)
            assert len(found()) >= times, f"{pattern!r} was not said:\n{self.said}"
            return found()[times - 1]

    @property
    def said(self) -> str:
        return "".join(self._said)

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def ends(self) -> int:
        """Its exit code, once it has ended."""
        code = self.process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        return code


class Gateway(Running):
    """A gateway that answers."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        super().__init__(process)
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            self.ends()
            raise AssertionError(f"the gateway did not start:\n{self.said}")
        self.looks: dict[str, Any] = orjson.loads(line)
        self.url = self.looks["url"]

    def call(self, tool: str, client: Any = httpx, headers: dict[str, str] | None = None, **arguments: Any) -> Any:
        """Call a tool; the answer."""
        return client.post(
            f"{self.url}/v1/tools/{tool}/calls",
            json={"arguments": arguments},
            headers=headers or {},
            timeout=PATIENCE_S,
        )

    def accept(self, tool: str, *, options: dict[str, Any] | None = None, **arguments: Any) -> str:
        """Have a call accepted; its id."""
        answer = httpx.post(
            f"{self.url}/v1/tools/{tool}/calls",
            json={"arguments": arguments, **(options or {})},
            headers={"prefer": "respond-async"},
            timeout=PATIENCE_S,
        )
        assert answer.status_code == 202, answer.text
        return answer.headers["location"].rpartition("/")[2]

    def report(self, call_id: str) -> dict[str, Any]:
        """How a call stands once it ended."""
        answer = httpx.get(f"{self.url}/v1/calls/{call_id}?wait=20", timeout=PATIENCE_S)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def lines(self) -> list[dict[str, Any]]:
        """The access log on standard output, once the gateway has ended."""
        assert self.process.stdout is not None
        return [orjson.loads(line) for line in self.process.stdout.read().splitlines()]


def program(*arguments: str, tools: str = HERE) -> list[str]:
    return [sys.executable, "-m", "toolpost", *arguments, "--no-toolbox", "--tools", tools]


@contextmanager
def running(*arguments: str, folder: Path, tools: str = HERE, **env: str) -> Iterator[Running]:
    """A program that runs beside the block, and is killed at its end if it still does."""
    with _started(program(*arguments, tools=tools), folder, env) as process:
        yield Running(process)


@contextmanager
def serving(*arguments: str, folder: Path, tools: str = HERE, **env: str) -> Iterator[Gateway]:
    """A gateway on a free port, in a folder of its own."""
    with _started(program("serve", "--port=0", "--json", *arguments, tools=tools), folder, env) as process:
        yield Gateway(process)


@contextmanager
def _started(command: list[str], folder: Path, env: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=folder, env=environment(**env), **pipes) as process:  # type: ignore[call-overload]
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)


def refused(*arguments: str, folder: Path, tools: str = HERE, **env: str) -> subprocess.CompletedProcess[str]:
    """A program that is to end by itself at once."""
    return subprocess.run(
        program(*arguments, tools=tools),
        cwd=folder,
        env=environment(**env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def connects(url: str) -> bool:
    """Whether somebody takes connections there."""
    host, _, port = url.removeprefix("http://").partition(":")
    try:
        socket.create_connection((host, int(port)), PATIENCE_S).close()
    except OSError:
        return False
    return True
