"""Places: how many may be in at once for each key; whoever comes when all are taken waits in line."""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

from toolpost.calls.clock import Clock

Waiting = tuple[asyncio.AbstractEventLoop, "asyncio.Future[None]"]


class Place:
    """One caller's place, or its stand in the line for one. had says which."""

    __slots__ = ("_bell", "_places", "had", "key", "limit")

    def __init__(self, places: Places, key: Hashable, limit: int) -> None:
        self._places, self.key, self.limit = places, key, limit
        self.had = False
        self._bell: Waiting | threading.Lock | None = None

    async def wait(self, clock: Clock, timeout_s: float | None) -> bool:
        """Wait in a task until the place is had; False when timeout_s (None: no limit) passed first.

        Whoever is cancelled meanwhile must leave(), as after every other end.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        if not self._places._ring(self, (loop, future)):
            return True
        alarm = None if timeout_s is None else clock.alarm(timeout_s, lambda: _release(future))
        try:
            await future
        finally:
            if alarm is not None:
                alarm.cancel()
        return self.had

    def wait_blocking(self, clock: Clock, timeout_s: float | None) -> bool:
        """wait() for a thread."""
        bell = threading.Lock()
        bell.acquire()
        if not self._places._ring(self, bell):
            return True
        return clock.acquire(bell, timeout_s) or self.had

    def leave(self) -> None:
        """Give the place back, or the stand in the line; once is enough, and again does nothing."""
        self._places._leave(self)

    def _wake(self) -> bool:
        """Tell whoever waits. False when nobody can be told any more."""
        bell = self._bell
        if bell is None:
            return True  # not waiting yet: it will see that it has the place
        if not isinstance(bell, tuple):
            bell.release()
            return True
        try:
            bell[0].call_soon_threadsafe(_release, bell[1])
        except RuntimeError:  # the loop is closed: nobody waits there any more
            return False
        return True


class Places:
    """Places by key, first come, first served, for tasks of any loop and for threads. O(1), and nobody polls.

    A key is known only while somebody is in, or once swift() was asked for it. Each caller names the limit it goes by,
    for callers of one key may differ.

    Whoever comes puts a mark into the key's list, and takes it out again if the list is too long then: so nobody reads
    a number that another is about to change, and coming in where that takes no waiting needs no lock. Whoever takes a
    mark out looks for a line afterwards, whoever joins a line looks for room afterwards: one of them sees the other.
    """

    __slots__ = ("_lines", "_lock", "_marks", "_swift")

    def __init__(self) -> None:
        self._marks: dict[Hashable, list[None]] = {}
        self._swift: set[Hashable] = set()
        self._lines: dict[Hashable, OrderedDict[Place, None]] = {}
        """Who waits, for keys that somebody waits for."""
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len({key for key, marks in list(self._marks.items()) if marks} | self._lines.keys())

    def enter(self, key: Hashable, limit: int) -> Place:
        """A place if one is free and nobody waits for it, else a stand in the line. It must be left in the end."""
        place = Place(self, key, limit)
        with self._lock:
            if key not in self._lines and self._mark(key, limit):
                place.had = True
            else:
                self._lines.setdefault(key, OrderedDict())[place] = None
                self._admit(key)
        return place

    def swift(self, key: Hashable, limit: int) -> tuple[Callable[[], int], Callable[[], None]]:
        """Entering where that takes no waiting, and leaving again, for callers that go by one key and limit.

        The first says how many are in then, this one with them; or 0 where no place is free, or somebody waits. The
        second must be called once for each that came in so.
        """
        with self._lock:
            marks = self._marks.setdefault(key, [])
            self._swift.add(key)
        lines = self._lines
        come, go = marks.append, marks.pop

        def enter() -> int:
            come(None)
            now = len(marks)
            if now > limit or key in lines:
                leave()
                return 0
            return now

        def leave() -> None:
            go()
            if key in lines:
                with self._lock:
                    self._admit(key)

        return enter, leave

    def enter_free(self, key: Hashable, limit: int) -> int:
        """How many are in now, this caller with them; 0 where no place is free, or somebody waits."""
        with self._lock:
            return self._mark(key, limit) if key not in self._lines else 0

    def leave_free(self, key: Hashable) -> None:
        """Give back what enter_free() took; exactly once."""
        with self._lock:
            self._give_back(key)

    def taken(self, key: Hashable) -> int:
        """How many are in."""
        return len(self._marks.get(key, ()))

    def ahead(self, key: Hashable) -> int:
        """How many wait."""
        return len(self._lines.get(key, ()))

    def _ring(self, place: Place, bell: Waiting | threading.Lock) -> bool:
        """Have place woken by bell. False when it is had already."""
        with self._lock:
            if place.had:
                return False
            place._bell = bell
            return True

    def _leave(self, place: Place) -> None:
        with self._lock:
            if place.had:
                place.had = False
                self._give_back(place.key)
                return
            line = self._lines.get(place.key)
            if line is not None and line.pop(place, place) is None:  # it was in the line, perhaps its head
                self._admit(place.key)

    def _mark(self, key: Hashable, limit: int) -> int:
        marks = self._marks.get(key)
        if marks is None:
            marks = self._marks[key] = []
        marks.append(None)
        now = len(marks)
        if now > limit:
            self._unmark(key)
            return 0
        return now

    def _unmark(self, key: Hashable) -> None:
        marks = self._marks[key]
        marks.pop()
        if not marks and key not in self._swift:
            del self._marks[key]

    def _give_back(self, key: Hashable) -> None:
        self._unmark(key)
        self._admit(key)

    def _admit(self, key: Hashable) -> None:
        """Let in from the head of the line as many as there is room for."""
        line = self._lines.get(key)
        while line:
            first = next(iter(line))
            if not self._mark(key, first.limit):
                return
            del line[first]
            first.had = True  # before it is woken, for it may look at once
            if not first._wake():
                first.had = False
                self._unmark(key)
        if line is not None:
            del self._lines[key]


def _release(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class Pace:
    """How long places are held: a running average, to guess when one will be free."""

    __slots__ = ("average_s",)

    def __init__(self) -> None:
        self.average_s = 0.0

    def held(self, seconds: float) -> None:
        """One was held for so long."""
        self.average_s += (seconds - self.average_s) * 0.2 if self.average_s else seconds

    def guess_s(self, ahead: int, limit: int) -> float:
        """Seconds until one who comes behind so many may have a place."""
        return max(0.1, self.average_s) * (1 + ahead // limit)
