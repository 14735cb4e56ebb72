"""Worker processes as the tests see them: started, asked, stopped, continued and killed."""

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import toolpost
from tests.faults.effects import Effects

T = TypeVar("T")
ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 25.0
LOOK_S = 0.01

Answer = dict[str, Any]


def until(found: Callable[[], T], patience_s: float = PATIENCE_S, *, what: str = "it") -> T:
    """Look again and again until something is found; what it was. Fails when the patience is over."""
    end = time.monotonic() + patience_s
    while True:
        seen = found()
        if seen:
            return seen
        if time.monotonic() > end:
            raise AssertionError(f"{what} did not come about within {patience_s:g} s; last seen: {seen!r}")
        time.sleep(LOOK_S)


def charge(order: str, *, tool: str = "Pay.Charge", **fields: Any) -> dict[str, Any]:
    """A call for a worker."""
    return {"tool": tool, "arguments": {"order": order}, "fields": fields}


def source_path() -> str:
    """Where other processes find the tests, and the same toolpost as this one."""
    return os.pathsep.join([str(ROOT), str(Path(toolpost.__file__).parents[1])])


class Worker:
    """One process with an executor of its own."""

    module = "tests.faults.worker"

    def __init__(
        self,
        effects: Effects,
        name: str,
        settings: dict[str, Any],
        tools: Sequence[dict[str, Any]],
        **environment: str,
    ) -> None:
        said = {"name": name, "folder": str(effects.folder), "settings": settings, "tools": list(tools)}
        self.name = name
        self._log = effects.folder / f"log-{name}"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", self.module, json.dumps(said)],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": source_path(), **environment},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        self._ids = itertools.count(1)
        self._answers: dict[int, Answer] = {}
        self._over = False
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def ready(self) -> "Worker":
        """Wait until it takes commands."""
        self.answer(0)
        return self

    def ask(self, calls: Sequence[dict[str, Any]] = (), **command: Any) -> int:
        """Have it make calls; the number of the answer to come."""
        number = next(self._ids)
        assert self._process.stdin is not None
        self._process.stdin.write((json.dumps({"id": number, "calls": list(calls), **command}) + "\n").encode())
        self._process.stdin.flush()
        return number

    def answer(self, number: int, patience_s: float = PATIENCE_S) -> list[Answer]:
        """The results of what was asked."""
        with self._news:
            came = self._news.wait_for(lambda: number in self._answers or self._over, patience_s)
            if number in self._answers:
                return self._answers.pop(number).get("results", [])
        why = "ended" if came else f"gave no answer within {patience_s:g} s"
        raise AssertionError(f"worker {self.name} {why}:\n{self.log[-3000:]}")

    def make(self, calls: Sequence[dict[str, Any]], **command: Any) -> list[Answer]:
        """The results of calls."""
        return self.answer(self.ask(calls, **command))

    @property
    def log(self) -> str:
        """What it has written to its standard error."""
        return self._log.read_text()

    def stop(self) -> None:
        """Stop its clock."""
        os.kill(self.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """Undo stop()."""
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self._process.kill()
        self._process.wait()

    def end(self) -> None:
        """Kill it if it still runs, and let go of its pipes."""
        self.kill()
        self._reader.join(10)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        for pipe in (self._process.stdin, self._process.stdout):
            try:
                pipe.close()
            except BrokenPipeError:
                continue

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            answer = json.loads(line)
            with self._news:
                self._answers[answer["id"]] = answer
                self._news.notify_all()
        with self._news:
            self._over = True
            self._news.notify_all()
