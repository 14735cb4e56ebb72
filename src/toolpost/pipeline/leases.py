"""Leases: places in a store that many processes share, renewed while they are held."""

from __future__ import annotations

import logging
import os
import threading
import weakref

from toolpost.calls.call import new_id
from toolpost.calls.clock import Clock
from toolpost.calls.errors import StoreUnavailableError
from toolpost.stores import State
from toolpost.stores.pending import Answer, Pending

logger = logging.getLogger("toolpost")


class Lease:
    """One place of a key that this process holds, or asks for. lost: the store gave it to another meanwhile."""

    __slots__ = ("due", "holder", "key", "lease_s", "limit", "lost", "state")

    def __init__(self, state: State, key: str, holder: str, limit: int, lease_s: float) -> None:
        self.state, self.key, self.holder, self.limit, self.lease_s = state, key, holder, limit, lease_s
        self.due = 0.0
        self.lost = False

    def ask(self) -> Answer[float]:
        """Take the place, or renew it: 0.0 when had."""
        return self.state.enter(self.key, self.holder, self.limit, self.lease_s)


class Leases:
    """What this executor holds. One thread renews it, all that is due in one go, at a third of each lease.

    The thread ends when it finds nothing held. What cannot be renewed is free for others when its lease is over.
    A forked child renews nothing of its parent's.
    """

    def __init__(self, clock: Clock, owner: str) -> None:
        self._clock, self._owner = clock, owner
        self._closed = False
        self._start_empty()
        _all.add(self)

    def _start_empty(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[Lease, None] = {}
        self._thread: threading.Thread | None = None
        self._bell = threading.Lock()
        self._bell.acquire()
        self._wakes_at = 0.0

    def __len__(self) -> int:
        return len(self._held)

    def lease(self, state: State, key: str, limit: int, lease_s: float) -> Lease:
        """A lease to ask for."""
        return Lease(state, key, f"{self._owner}:{new_id()}", limit, lease_s)

    def hold(self, lease: Lease) -> None:
        """Renew a lease that was had, until it is let go."""
        lease.due = self._clock.monotonic() + lease.lease_s / 3
        with self._lock:
            self._held[lease] = None
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._run, name="toolpost-leases", daemon=True)
                self._thread.start()
            elif lease.due < self._wakes_at:
                self._ring()

    def let_go(self, lease: Lease) -> None:
        """Give the place back, also one that was only asked for: the store does both in order. Nobody waits for it."""
        with self._lock:
            self._held.pop(lease, None)
        lease.state.leave(lease.key, lease.holder)

    def close(self) -> None:
        """Renew no more."""
        with self._lock:
            self._closed = True
            self._held.clear()
            self._ring()

    def _ring(self) -> None:
        if self._bell.locked():
            self._bell.release()

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._held:
                    self._thread = None
                    return
                now = self._clock.monotonic()
                due = [lease for lease in self._held if lease.due <= now]
                self._wakes_at = min(lease.due for lease in self._held)
                pause_s = max(0.01, self._wakes_at - now)
            if due:
                self._renew(due)
            else:
                self._clock.acquire(self._bell, pause_s)

    def _renew(self, due: list[Lease]) -> None:
        asked = [(lease, lease.ask()) for lease in due]
        for lease, answer in asked:
            try:
                wait_s = answer.wait(self._clock, lease.lease_s / 3) if isinstance(answer, Pending) else answer
            except StoreUnavailableError:
                wait_s = 0.0  # the store says so itself; the lease may still hold
            except Exception:
                wait_s = 0.0
                logger.exception("the lease of %s could not be renewed", lease.key)
            if wait_s > 0 and not lease.lost:
                lease.lost = True
                logger.warning("the lease of %s ran out while its holder still ran, and another has it", lease.key)
            lease.due = self._clock.monotonic() + lease.lease_s / 3
        with self._lock:
            gone = [lease for lease in due if lease not in self._held]
        for lease in gone:  # it was given back while it was renewed
            lease.state.leave(lease.key, lease.holder)


_all: weakref.WeakSet[Leases] = weakref.WeakSet()


def _empty_all() -> None:
    for leases in list(_all):
        leases._start_empty()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_empty_all)
