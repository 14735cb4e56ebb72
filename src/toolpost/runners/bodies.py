"""Bodies: whether bodies of one call still run in threads, also after the call has given them up."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class Bodies:
    """What must not be let go of before the last body of a call has ended, whoever waits for it no more.

    A stage makes one where it needs to know and puts it into the invocation; the runner runs bodies through it.
    """

    __slots__ = ("_closed", "_lock", "_running", "_then")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running = 0
        self._closed = False
        self._then: list[Callable[[], object]] = []

    @property
    def running(self) -> int:
        """Bodies that run now."""
        return self._running

    def run(self, work: Callable[[], T]) -> T:
        """Run work. Raises RuntimeError when the call is over: a worker came so late that nobody may run it."""
        with self._lock:
            if self._closed:
                raise RuntimeError("the call ended before its body began, so the body did not run")
            self._running += 1
        try:
            return work()
        finally:
            then: list[Callable[[], object]] = []
            with self._lock:
                self._running -= 1
                if self._closed and not self._running:
                    then, self._then = self._then, then
            for let_go in then:
                let_go()

    def afterwards(self, let_go: Callable[[], object]) -> bool:
        """The call is over: run let_go, now or in the thread of the last body. Says whether it was now."""
        with self._lock:
            self._closed = True
            if self._running:
                self._then.append(let_go)
                return False
        let_go()
        return True
