"""Feed: what running calls tell (progress, log lines, output, their end), for those who follow them, with replay."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from toolpost.calls.call import Caller
from toolpost.calls.events import Event, Logged, Progressed

if TYPE_CHECKING:
    from toolpost.engine.executor import ToolExecutor

logger = logging.getLogger("toolpost.worker")

Kind = Literal["state", "progress", "log", "result"]

KEPT_EVENTS = 256
"""How many events of one call are there to be replayed; the newest are."""
KEPT_S = 60.0
"""How long the events of a call that ended stay."""
MAX_ENDED = 2_000
"""Of how many such calls at most."""
PROGRESS_EVERY_S = 0.25
"""Of what a body tells of its progress in that time only the newest counts."""
MAX_INBOX = 10_000
"""How many events may wait for the loop, of all calls together; the newest do."""
MAX_LOG = 8_192
"""Most characters of a log line or a message of progress."""
STATE_N, RESULT_N = 0, 999_999
"""Where in the count of a holder's events its first state and the result stand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallEvent:
    """One thing that a call told. id grows within a call; data is JSON.

    state: {"state": ...}, with {"dropped": n} where events are gone that were not read in time. progress: {"value",
    "total", "message"}. log: {"level", "message", "fields"}. result: the whole report as CallReport's JSON; it is the
    last one.
    """

    id: str
    kind: Kind
    data: Mapping[str, Any]
    at: float


def event_id(fence: int, n: int) -> str:
    """The id of a holder's nth event: ids of one call sort as texts."""
    return f"{fence:06d}-{n:06d}"


Keep = Callable[[CallEvent], None]


class Ring:
    """The newest events of one call, in the loop of its feed. Followers hold a place in it and no events."""

    __slots__ = (
        "_last_progress",
        "_late",
        "_news",
        "caller",
        "ended",
        "events",
        "fence",
        "first",
        "followers",
        "keep",
        "n",
    )

    def __init__(self, caller: Caller, fence: int, keep: Keep | None) -> None:
        self.caller, self.fence, self.keep = caller, fence, keep
        self.events: deque[CallEvent] = deque(maxlen=KEPT_EVENTS)
        self.first = 0
        """How many events have left the ring."""
        self.n = 0
        self.followers = 0
        self.ended = False
        self._news: asyncio.Future[None] | None = None
        self._last_progress = float("-inf")
        self._late: tuple[asyncio.TimerHandle, Mapping[str, Any], float] | None = None

    @property
    def last_id(self) -> str:
        return self.events[-1].id if self.events else ""

    def add(self, event: CallEvent) -> None:
        """Append an event, unless it is there already."""
        if self.ended or event.id <= self.last_id:
            return
        if len(self.events) == KEPT_EVENTS:
            self.first += 1
        self.events.append(event)
        self.ended = event.kind == "result"
        self._wake()

    def leave(self) -> None:
        """End without a result."""
        self.ended = True
        self._wake()

    def _wake(self) -> None:
        news, self._news = self._news, None
        if news is not None and not news.done():
            news.set_result(None)

    def tell(self, kind: Kind, data: Mapping[str, Any], at: float) -> None:
        """Append what the body told, and keep it where others can follow."""
        self.n = min(self.n + 1, RESULT_N - 2)
        event = CallEvent(id=event_id(self.fence, self.n), kind=kind, data=data, at=at)
        self.add(event)
        if self.keep is not None and not self.ended:
            self.keep(event)

    def progress(self, data: Mapping[str, Any], at: float, now: float) -> None:
        """Append progress, no oftener than PROGRESS_EVERY_S; what was told last is told in any case."""
        wait_s = self._last_progress + PROGRESS_EVERY_S - now
        if wait_s > 0:
            timer = None if self._late is None else self._late[0]
            self._late = (timer or asyncio.get_running_loop().call_later(wait_s, self.flush), data, at)
            return
        if self._late is not None:
            self._late[0].cancel()
            self._late = None
        self._last_progress = now
        self.tell("progress", data, at)

    def flush(self) -> None:
        """Append the progress that waits."""
        if self._late is not None:
            timer, data, at = self._late
            timer.cancel()
            self._late, self._last_progress = None, asyncio.get_running_loop().time()
            self.tell("progress", data, at)

    async def news(self) -> None:
        """Wait for another event; all who wait share one future."""
        if self._news is None:
            self._news = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._news)


class Feed:
    """The events of calls that somebody may follow, bounded for each call; the newest stay.

    It belongs to one event loop. While no call is watched, calls cost nothing here.
    """

    def __init__(self, executor: ToolExecutor) -> None:
        self._executor = executor
        self._rings: dict[str, Ring] = {}
        self._ended: OrderedDict[str, float] = OrderedDict()
        self._inbox: deque[tuple[Event, float]] = deque(maxlen=MAX_INBOX)
        self._told = False
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: Callable[[], None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def busy(self) -> bool:
        """Whether any call is watched."""
        return bool(self._rings)

    # -- those who run calls ------------------------------------------------------------------------------------------

    def open(self, call_id: str, caller: Caller, *, fence: int = 1, keep: Keep | None = None) -> Ring:
        """Begin to note what a call tells, or go on under another holder's fence."""
        self._loop = self._loop or asyncio.get_running_loop()
        ring = self._rings.get(call_id)
        if ring is None or ring.ended:
            ring = self._rings[call_id] = Ring(caller, fence, keep)
        elif fence > ring.fence:
            ring.fence, ring.n = fence, 0
            ring.keep = keep
        elif keep is not None:
            ring.keep = keep
        if self._stop is None:
            self._stop = self._executor.observe(self._observe)
        return ring

    def settle(self, call_id: str) -> bool:
        """Take in all that a call told; whether that was anything."""
        ring = self._rings.get(call_id)
        if ring is None:
            return False
        self._take_in()
        ring.flush()
        return ring.n > 0

    def close(self, call_id: str, result: Mapping[str, Any] | None, *, for_s: float | None = None) -> None:
        """Say how a call ended (its report as JSON), or that it is no longer run here.

        Its events stay for for_s seconds (KEPT_S).
        """
        for_s = KEPT_S if for_s is None else for_s
        ring = self._rings.get(call_id)
        if ring is None:
            return
        self.settle(call_id)
        if result is not None:
            ring.add(
                CallEvent(id=event_id(ring.fence, RESULT_N), kind="result", data=result, at=self._executor.clock.now())
            )
        ring.keep = None
        if result is None and ring.followers:
            return
        now = self._executor.clock.monotonic()
        if for_s > 0:
            self._ended[call_id] = now + for_s
            self._ended.move_to_end(call_id)
            self._tidy_later()
        else:
            self._drop(call_id)
        self.tidy(now)

    def forget(self, call_id: str) -> None:
        """Let those who follow a call go: it is no longer there."""
        ring = self._rings.get(call_id)
        if ring is not None:
            ring.leave()
            self._drop(call_id)

    def forget_all(self) -> None:
        """Let all go who follow anything: they can go on elsewhere, behind the last id that they had."""
        for call_id in list(self._rings):
            self.forget(call_id)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def tidy(self, now: float) -> None:
        """Forget calls that ended a while ago."""
        while self._ended:
            call_id, until = next(iter(self._ended.items()))
            if until > now and len(self._ended) <= MAX_ENDED:
                break
            self._drop(call_id)

    def _tidy_later(self) -> None:
        """See to it that what ended is forgotten in time, also where nothing more happens."""
        if self._timer is None and self._ended:
            self._timer = asyncio.get_running_loop().call_later(KEPT_S / 4, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self.tidy(self._executor.clock.monotonic())
        self._tidy_later()

    def _drop(self, call_id: str) -> None:
        self._ended.pop(call_id, None)
        self._rings.pop(call_id, None)
        if not self._rings and self._stop is not None:
            self._stop()
            self._stop = None

    # -- those who follow ---------------------------------------------------------------------------------------------

    def ring(self, call_id: str) -> Ring | None:
        """The events of a call that are at hand here."""
        return self._rings.get(call_id)

    async def follow(self, call_id: str, after: str | None = None) -> AsyncIterator[CallEvent]:
        """The events after an id (all that are kept where None), then those to come, to the result."""
        ring = self._rings.get(call_id)
        if ring is None:
            return
        async for event in self.follow_ring(call_id, ring, after):
            yield event

    async def follow_ring(self, call_id: str, ring: Ring, after: str | None) -> AsyncIterator[CallEvent]:
        """follow, for a ring that was had before it may have been dropped."""
        seen = after or ""
        place = ring.first
        ring.followers += 1
        try:
            while True:
                if place < ring.first:
                    missed, place = ring.first - place, ring.first
                    oldest = ring.events[0]
                    if oldest.id > seen:
                        yield CallEvent(
                            id=seen or event_id(0, 0),
                            kind="state",
                            data={"state": "running", "dropped": missed},
                            at=oldest.at,
                        )
                        if place < ring.first:
                            continue
                end = ring.first + len(ring.events)
                while ring.first <= place < end:
                    event = ring.events[place - ring.first]
                    place += 1
                    if event.id > seen:
                        seen = event.id
                        yield event
                        end = ring.first + len(ring.events)
                    if event.kind == "result":
                        return
                if place >= ring.first + len(ring.events):
                    if ring.ended:
                        return
                    await ring.news()
        finally:
            ring.followers -= 1

    # -- what is told -------------------------------------------------------------------------------------------------

    def _observe(self, event: Event) -> None:
        """Note an event of a watched call: from any thread, in no time, however many there are."""
        if event.__class__ not in _TOLD or event.call_id not in self._rings:
            return
        self._inbox.append((event, self._executor.clock.now()))
        if self._told or self._loop is None:
            return
        with self._lock:
            if self._told:
                return
            self._told = True
        try:
            self._loop.call_soon_threadsafe(self._take_in)
        except RuntimeError:  # the loop is closed: nobody follows any more
            return

    def _take_in(self) -> None:
        self._told = False
        now = asyncio.get_running_loop().time()
        for _ in range(len(self._inbox)):
            event, at = self._inbox.popleft()
            ring = self._rings.get(event.call_id)
            if ring is None or ring.ended:
                continue
            try:
                if isinstance(event, Progressed):
                    message = event.message if event.message is None else str(event.message)[:MAX_LOG]
                    ring.progress({"value": event.value, "total": event.total, "message": message}, at, now)
                elif isinstance(event, Logged):
                    text = str(event.message)[:MAX_LOG]
                    ring.tell("log", {"level": event.level, "message": text, "fields": _plain(event.fields)}, at)
            except Exception:  # a body may log what has no text; its call goes on
                logger.exception("something that call %s told cannot be shown", event.call_id)


_TOLD = frozenset({Progressed, Logged})


def _plain(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a log line as JSON, bounded."""
    told: dict[str, Any] = {}
    for name, value in list(fields.items())[:50]:
        if value is None or isinstance(value, (bool, int, float)):
            told[str(name)] = value
        else:
            told[str(name)] = str(value)[:MAX_LOG]
    return told


__all__ = ["CallEvent", "Feed", "Kind", "Ring", "event_id"]
