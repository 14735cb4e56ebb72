"""Circuits: when calls are held back from what keeps failing, and how few find out that it is well again.

The same machine runs in circuit.lua for circuits that processes share; a test holds both to one model.

closed     Calls are admitted, and their ends counted; the count by which it opens is below.
open       For recovery_s nobody is admitted. What was admitted before reports without a probe number and is not heard.
half_open  half_open_calls probes (as the rules of whoever asked last have it) are admitted, each under a number of its
           own, and nobody else. When all have succeeded it closes, empty; the first failure opens it anew. A probe that
           ends without saying anything (ok None) gives its place back. One that is silent for recovery_s counts as
           lost: its place is given to another, but should it answer later, while the circuit is still half open, that
           is heard (else what always takes longer than recovery_s would never recover). Once the circuit has opened or
           closed, its earlier probes are not heard.
forced     By an operator: nothing is counted until it is let go on, closed and empty.

Standard (error_rate None) opens at `failures` failures in a row.

Adaptive looks at the last `window` calls, and opens when a call fails while at least error_rate of them failed and
there are enough of them to judge by. Enough is a threshold that moves between `failures` and max_failures (neither
above window): it starts at `failures`, each call that leaves at most half of error_rate in the window raises it by 1,
and each opening halves it. It rises with the successes, so that these alone do not make a young circuit ripe to be
judged; it outlives an opening, so that what was well for long is given more calls to fail once it is back than what
trips again and again.
Sources: a volume below which no rate is judged is Hystrix's requestVolumeThreshold and resilience4j's
minimumNumberOfCalls; adding slowly and halving at trouble is the one pair of linear rules that settles (Chiu and Jain,
"Analysis of the increase and decrease algorithms for congestion avoidance", 1989).
"""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Literal

from toolpost.stores import Circuit, CircuitRules

LOST_KEPT = 16
"""How many lost probes may still answer, beside those that have a place."""

CLOSED = Circuit(True, "closed")
NO_WINDOW: deque[bool] = deque(maxlen=0)


class Circuits:
    """Circuits of one process by key, safe from any thread. monotonic gives seconds.

    A circuit without a failure to remember takes no room. max_keys bounds the others: the one longest unused is
    forgotten first, those that an operator holds never. admit and report of a closed circuit take a look-up each.
    """

    def __init__(self, monotonic: Callable[[], float], max_keys: int = 100_000) -> None:
        self._monotonic = monotonic
        self._max_keys = max_keys
        self._records: OrderedDict[Hashable, _Record] = OrderedDict()
        self._forced: dict[Hashable, Circuit] = {}
        self.remembered: Mapping[Hashable, object] = self._records
        self.forced: Mapping[Hashable, object] = self._forced
        """To look into: what is in neither is closed, and its success under standard rules changes nothing."""
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._records)

    def admit(self, key: Hashable, rules: CircuitRules) -> Circuit:
        """Ask whether a call may run; when the answer has a probe number, hand it to report."""
        record = self._records.get(key)
        if self._forced and (forced := self._forced.get(key)) is not None:
            return forced
        if record is None:
            return CLOSED
        if record.state == "closed":
            return record.shown
        with self._lock:
            return record.admit(self._monotonic(), rules, self._numbers)

    def report(self, key: Hashable, rules: CircuitRules, ok: bool | None, probe: int = 0, cause: str = "") -> Circuit:
        """Say how an admitted call ended, once for each: True, False, or None (says nothing about the dependency).

        cause is kept if this trips the circuit. What is returned says whether a further call would be admitted.
        """
        record = self._records.get(key)
        if self._forced and (forced := self._forced.get(key)) is not None:
            return forced
        if record is None and (ok is None or probe or (ok and rules.error_rate is None)):
            return CLOSED
        with self._lock:
            record = self._records.get(key)
            if record is None:
                record = self._records[key] = _Record()
                while len(self._records) > self._max_keys:
                    self._records.popitem(last=False)
            else:
                self._records.move_to_end(key)
            if record.state == "closed" and not probe and ok is not None:
                trips = record.counted(ok, rules) if rules.error_rate is None else record.judged(ok, rules)
                if not trips:
                    if ok and rules.error_rate is None and record.empty:
                        del self._records[key]
                    return record.shown
                now = self._monotonic()
                record.open(now, rules, cause)
                return record.show(now)._replace(opened=True)
            now, before = self._monotonic(), record.state
            if probe:
                record.heard(now, rules, ok, probe, cause)
                if record.empty:
                    del self._records[key]
            opened = record.state == "open" and before != "open"
            return record.show(now)._replace(opened=True) if opened else record.show(now)

    def circuit(self, key: Hashable) -> Circuit:
        """How a circuit stands, asking nothing of it; admitted says whether a call would be."""
        with self._lock:
            forced = self._forced.get(key)
            if forced is not None:
                return forced
            record = self._records.get(key)
            return CLOSED if record is None else record.show(self._monotonic())

    def force(self, key: Hashable, state: Literal["open", "closed", ""]) -> None:
        """Hold a circuit open or closed; "" lets it go on by itself, closed and empty."""
        with self._lock:
            if state:  # before the record goes, so that nobody without the lock sees neither
                self._forced[key] = Circuit(state == "closed", state, forced=state)
            self._records.pop(key, None)
            if not state:
                self._forced.pop(key, None)


class _Record:
    """One circuit that has something to remember. Times are monotonic seconds."""

    __slots__ = (
        "state", "in_a_row", "window", "failed", "threshold", "until", "cause",
        "probes", "succeeded", "places", "shown", "rules", "size", "rate", "floor", "ceiling",
    )  # fmt: skip

    def __init__(self) -> None:
        self.state = "closed"
        self.in_a_row = 0
        self.window: deque[bool] = NO_WINDOW
        """Of the last calls under adaptive rules, which failed."""
        self.failed = 0
        self.threshold = 0
        self.until = 0.0
        self.cause = ""
        self.probes: dict[int, float] = {}
        """Number -> when it counts as lost, in the order they were admitted."""
        self.succeeded = 0
        self.places = 1
        self.shown = CLOSED
        """How it stands while it is closed, so that admit need not make it."""
        self.rules: CircuitRules | None = None
        """The adaptive rules from which the next four are, made once for rules that come again and again."""
        self.size, self.rate = 0, 0.0
        self.floor = self.ceiling = 0

    @property
    def empty(self) -> bool:
        """Whether a circuit that nobody has heard of would behave the same."""
        return not (self.threshold or self.in_a_row or self.window) and self.state == "closed"

    @property
    def failures(self) -> int:
        return self.failed if self.window else self.in_a_row

    def admit(self, now: float, rules: CircuitRules, numbers: Iterator[int]) -> Circuit:
        if self.state == "open" and now >= self.until:
            self.state = "half_open"
            self.succeeded = 0
        if self.state == "half_open":
            self.places = rules.half_open_calls
            if self.succeeded >= self.places:  # fewer are asked for than when they were admitted
                self.close()
            elif self._live(now) + self.succeeded < self.places:
                return self._probe(now, rules, numbers)
        shown = self.show(now)
        return shown if self.state == "closed" else shown._replace(admitted=False)

    def counted(self, ok: bool, rules: CircuitRules) -> bool:
        """Count the end of a call under standard rules; whether that opens the circuit."""
        if ok and not self.in_a_row:
            return False
        self.in_a_row = 0 if ok else self.in_a_row + 1
        self.shown = CLOSED._replace(failures=self.failures)
        return self.in_a_row >= rules.failures

    def judged(self, ok: bool, rules: CircuitRules) -> bool:
        """Count the end of a call under adaptive rules; whether that opens the circuit."""
        if self.rules is not rules:
            self._fit(rules)
        window, failed = self.window, self.failed
        calls = len(window)
        if calls < self.size:
            calls += 1
        elif window[0]:
            failed -= 1
        window.append(not ok)
        if not ok:
            failed += 1
        self.failed = failed
        if failed != self.shown.failures:
            self.shown = CLOSED._replace(failures=failed)
        if failed >= self.rate * calls:
            if ok or calls < self.threshold:
                return False
            self.threshold = max(self.floor, self.threshold // 2)
            return True
        if self.threshold < self.ceiling and 2 * failed <= self.rate * calls:
            self.threshold += 1
        return False

    def heard(self, now: float, rules: CircuitRules, ok: bool | None, probe: int, cause: str) -> None:
        """Count the end of a probe, unless the circuit has opened or closed since it was admitted."""
        if self.probes.pop(probe, None) is None or ok is None:
            return
        if not ok:
            self.open(now, rules, cause)
            return
        self.succeeded += 1
        if self.succeeded >= self.places:  # not what these rules ask for: tools with different ones may share a circuit
            self.close()

    def show(self, now: float) -> Circuit:
        """How it stands; admitted says whether a call would be."""
        if self.state == "closed":
            return self.shown
        if self.state == "open" and now < self.until:
            return Circuit(False, "open", 0, self.until - now, self.cause, self.failures)
        admitted = self.state == "open" or self._live(now) + self.succeeded < self.places
        left_s = 0.0 if admitted else min(lost for lost in self.probes.values() if lost > now) - now
        return Circuit(admitted, "half_open", 0, left_s, self.cause, self.failures)

    def open(self, now: float, rules: CircuitRules, cause: str) -> None:
        self.state = "open"
        self.until = now + rules.recovery_s
        self.cause = cause
        self.probes = {}

    def close(self) -> None:
        """All but the threshold is forgotten."""
        threshold = self.threshold
        self.__init__()  # type: ignore[misc]
        self.threshold = threshold

    def _live(self, now: float) -> int:
        return sum(1 for lost in self.probes.values() if lost > now)

    def _probe(self, now: float, rules: CircuitRules, numbers: Iterator[int]) -> Circuit:
        if len(self.probes) >= self.places + LOST_KEPT:
            del self.probes[next(number for number, lost in self.probes.items() if lost <= now)]
        number = next(numbers)
        self.probes[number] = now + rules.recovery_s
        return Circuit(True, "half_open", number, 0.0, self.cause, self.failures)

    def _fit(self, rules: CircuitRules) -> None:
        """Bring the window and the threshold within the bounds of these adaptive rules."""
        if self.window.maxlen != rules.window:
            self.window = deque(self.window, maxlen=rules.window)
            self.failed = sum(self.window)
        self.rules, self.size, self.rate = rules, rules.window, rules.error_rate or 0.0
        self.floor = min(rules.failures, rules.window)
        self.ceiling = max(self.floor, min(rules.max_failures, rules.window))
        self.threshold = min(max(self.threshold, self.floor), self.ceiling)
