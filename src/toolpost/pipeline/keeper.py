"""Keeper: keeps the leases of claims alive while their bodies run, and says later what a store could not be told."""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Callable
from typing import Any

from toolpost.calls.clock import Clock
from toolpost.calls.errors import StoreUnavailableError
from toolpost.stores import Answer, Claim, ClaimAsk, Claims, Pending

logger = logging.getLogger("toolpost")

PATIENCE_S = 3600.0
"""How long an end that the store could not be told is kept and said again."""
LONGEST_TICK_S = 1.0
MOST_DOUBTFUL = 10_000
"""How many claims may wait to be asked after; those beyond are left to their leases."""
ROUND_S = 5.0
"""How long one round waits for a store's answers; those that are then still to come are looked for in the next."""


class Held:
    """One claim that a running body holds. lost: another holder took it over. active: its body may still be running."""

    __slots__ = ("active", "fence", "key", "lease_s", "lost", "on_lost")

    def __init__(self, key: str, fence: int, lease_s: float) -> None:
        self.key, self.fence, self.lease_s = key, fence, lease_s
        self.on_lost: Callable[[], None] | None = None
        self.lost = False
        self.active = True


class _Told:
    """Something a store must be told; answer is what it says to the last try."""

    __slots__ = ("answer", "ask", "fence", "key", "until")

    def __init__(
        self, key: str, fence: int, ask: Callable[[], Answer[bool]], answer: Answer[bool] | None, until: float
    ):
        self.key, self.fence, self.ask, self.answer, self.until = key, fence, ask, answer, until


class Keeper:
    """The claims that this executor holds in one store. One thread renews them, all in one go, at a third of a lease.

    The thread lives while there is something to keep. on_lost of a claim is called from it. A forked child keeps
    nothing of its parent's.
    """

    def __init__(self, claims: Claims, clock: Clock) -> None:
        self._claims, self._clock = claims, clock
        self._closed = False
        self._start_empty()
        _keepers.add(self)

    def _start_empty(self) -> None:
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._pause_s = 0.0
        self._held: dict[tuple[str, int], Held] = {}
        self._untold: dict[tuple[str, int], _Told] = {}
        self._abandoned: list[tuple[Pending[Claim], ClaimAsk]] = []
        self._thread: threading.Thread | None = None
        self._doubtful: dict[str, tuple[str, float]] = {}

    def hold(self, key: str, fence: int, lease_s: float) -> Held:
        """Renew a claim from now on."""
        held = Held(key, fence, lease_s)
        with self._lock:
            self._held[key, fence] = held
            self._run()
            hurry = lease_s / 3.0 < self._pause_s
        if hurry:
            self._wake.set()
        return held

    def drop(self, held: Held) -> None:
        """Renew it no more, unless its end is still to be told."""
        held.active = False
        with self._lock:
            if (held.key, held.fence) not in self._untold:
                self._held.pop((held.key, held.fence), None)

    def tell(self, key: str, fence: int, ask: Callable[[], Answer[bool]]) -> None:
        """Say how a claim ended, waiting for nothing: at once, and again until the store takes it or an hour passed."""
        self.tell_again(key, fence, ask, ask())

    def tell_again(
        self, key: str, fence: int, ask: Callable[[], Answer[bool]], answer: Answer[bool] | None = None
    ) -> None:
        """tell, when a first try has failed already (no answer) or is under way."""
        if answer is not None and not isinstance(answer, Pending):
            return
        told = _Told(key, fence, ask, answer, self._clock.monotonic() + PATIENCE_S)
        with self._lock:
            self._untold[key, fence] = told
            self._run()

    def abandon(self, answer: Pending[Claim], ask: ClaimAsk) -> None:
        """Give back the claim that this answer may bring: nobody waits for it any more, and nothing ran.

        Where the answer is lost, with the connection, the store is asked later whether it granted it: ask.owner is that
        ask's alone.
        """
        with self._lock:
            self._abandoned.append((answer, ask))
            self._run()
        self._wake.set()

    @property
    def untold(self) -> int:
        """Ends that the store has not been told yet."""
        return len(self._untold)

    def close(self) -> None:
        """Say what is still to be said, once, and stop."""
        self._closed = True
        self._wake.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(2.0)

    def _run(self) -> None:
        if self._thread is None and not self._closed:
            self._thread = threading.Thread(target=self._keep, name="toolpost-keeper", daemon=True)
            self._thread.start()

    def _keep(self) -> None:
        while True:
            with self._lock:
                leases = [held.lease_s / 3.0 for held in self._held.values()]
                if not (leases or self._untold or self._abandoned or self._doubtful):
                    self._thread = None
                    return
                self._pause_s = pause_s = min([*leases, LONGEST_TICK_S])
            self._wake.wait(pause_s)
            self._wake.clear()
            for chore in (self._renew, self._tell, self._give_back):
                try:
                    chore()
                except Exception:
                    logger.exception("keeping claims failed")
            if self._closed:
                return

    def _renew(self) -> None:
        by_lease: dict[float, list[Held]] = {}
        with self._lock:
            for held in self._held.values():
                if not held.lost:
                    by_lease.setdefault(held.lease_s, []).append(held)
        for lease_s, group in by_lease.items():
            answer = self._claims.renew([(held.key, held.fence) for held in group], lease_s)
            try:
                kept = answer.wait(self._clock, lease_s) if isinstance(answer, Pending) else answer
            except StoreUnavailableError:
                continue  # a lease that ran out is no loss: only a takeover is, and nobody can make one now
            for held, still in zip(group, kept, strict=True):
                if not still and held.active:
                    held.lost = True
                    if held.on_lost is not None:
                        try:
                            held.on_lost()
                        except RuntimeError:
                            continue  # its loop is closed

    def _tell(self) -> None:
        with self._lock:
            untold = list(self._untold.values())
        for told in untold:  # all are asked before any is waited for: that makes one batch of them
            if told.answer is None:
                told.answer = told.ask()
        end = self._clock.monotonic() + ROUND_S
        for told in untold:
            answer: Any = told.answer
            try:
                left_s = max(0.0, end - self._clock.monotonic())
                taken = answer.wait(self._clock, left_s) if isinstance(answer, Pending) else answer
            except StoreUnavailableError:
                if answer.done:
                    told.answer = None  # asked again in the next round
                if self._clock.monotonic() < told.until:
                    continue
                logger.error("a store could not be told for %g s how a call ended; its claim is unknown", PATIENCE_S)
            else:
                if not taken:
                    logger.warning("a claim had passed to another holder before the store could be told of its end")
            with self._lock:
                self._untold.pop((told.key, told.fence), None)
                held = self._held.get((told.key, told.fence))
                if held is not None and not held.active:
                    del self._held[told.key, told.fence]

    def _give_back(self) -> None:
        with self._lock:
            ready = [each for each in self._abandoned if each[0].done]
            self._abandoned = [each for each in self._abandoned if not each[0].done]
        until = self._clock.monotonic() + PATIENCE_S
        for answer, ask in ready:
            if answer.error is not None:
                if answer.sent and len(self._doubtful) < MOST_DOUBTFUL:
                    self._doubtful[ask.owner] = (ask.key, until)
            elif answer.value.state == "granted":
                self._release(answer.value)
        for owner, (key, until) in list(self._doubtful.items()):
            looked: Any = self._claims.lookup(key)
            try:
                claim = looked.wait(self._clock, ROUND_S) if isinstance(looked, Pending) else looked
            except StoreUnavailableError:
                if self._clock.monotonic() < until:
                    return  # the store is still away: the others can wait too
                claim = None
            del self._doubtful[owner]
            if claim is not None and claim.owner == owner and claim.state in ("in_flight", "unknown"):
                self._release(claim)

    def _release(self, claim: Claim) -> None:
        self.tell(claim.key, claim.fence, lambda: self._claims.release(claim.key, claim.fence))


_keepers: weakref.WeakSet[Keeper] = weakref.WeakSet()


def _empty_keepers() -> None:
    for keeper in list(_keepers):
        keeper._start_empty()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_empty_keepers)
