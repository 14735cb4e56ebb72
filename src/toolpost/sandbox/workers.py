"""Workers: daemon threads for what blocks, started when none is idle; how many there are is for others to bound."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable

IDLE_S = 30.0
"""How long a thread without work is kept."""


class Workers:
    """Runs work in threads of its own. What work raises is the work's own to see to."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._idle: list[_Worker] = []

    def submit(self, work: Callable[[], object]) -> None:
        """Begin work at once, in a copy of the caller's context variables. Raises RuntimeError for want of threads."""
        context = contextvars.copy_context()
        with self._lock:
            worker = self._idle.pop() if self._idle else None
        if worker is None:
            worker = _Worker(self, self._name)
            worker.work = lambda: context.run(work)
            worker.start()
        else:
            worker.work = lambda: context.run(work)
            worker.awake.release()

    def close(self) -> None:
        """Let the idle threads end; those at work end with it."""
        with self._lock:
            idle, self._idle = self._idle, []
        for worker in idle:
            worker.awake.release()

    def wait(self, worker: _Worker) -> bool:
        """Wait idle; whether there is work."""
        with self._lock:
            self._idle.append(worker)
        if not worker.awake.acquire(timeout=IDLE_S):
            with self._lock:
                if worker in self._idle:
                    self._idle.remove(worker)
                    return False
            worker.awake.acquire()  # work came in the same moment
        return worker.work is not None


class _Worker(threading.Thread):
    def __init__(self, workers: Workers, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self._workers = workers
        self.awake = threading.Lock()
        self.awake.acquire()
        self.work: Callable[[], object] | None = None

    def run(self) -> None:
        while self.work is not None:
            self.work()
            self.work = None
            if not self._workers.wait(self):
                return
