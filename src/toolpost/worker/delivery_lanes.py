"""Lanes: how many of one kind may be under way at a time, who waits for a place, and who comes again later."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from toolpost.calls.clock import Clock

T = TypeVar("T")
FIRST_PACE_S: Final = 0.1
"""How long one is thought to take before any has ended."""
HELD: Final = 8
"""How many may wait for a place, by the number of places."""
SHORTEST_WAIT_S: Final = 0.5
LONGEST_WAIT_S: Final = 600.0
MOST_LANES: Final = 10_000

Name = tuple[str, str]
"""A kind of lane, and which of them."""


@dataclass(slots=True)
class _Lane(Generic[T]):
    most: int
    running: int = 0
    held: int = 0
    pace_s: float = FIRST_PACE_S
    full_since: float = 0.0
    free_at: float = 0.0
    waiting: deque[tuple[Sequence[Name], T]] = field(default_factory=deque)

    def pace(self, now: float) -> float:
        """How long one takes: what the last ones did, or longer where nobody has left for longer."""
        return max(self.pace_s, now - self.full_since) if self.running >= self.most else self.pace_s


class Lanes(Generic[T]):
    """Places by kind and name, such as ("host", "example.com"); most says how many each of a kind has.

    For one event loop. Whoever finds a lane full waits there, if that will not take long; else it is told when to come
    again, each a little later than the one before: so ten thousand messages to one slow host are looked at as often as
    it answers, not each time.
    """

    def __init__(self, clock: Clock, most: Mapping[str, int], *, patience_s: float) -> None:
        self._clock, self._most, self._patience_s = clock, most, patience_s
        self._lanes: dict[Name, _Lane[T]] = {}
        self.held = 0
        """How many wait."""

    def enter(self, names: Sequence[Name], item: T) -> float | None:
        """Take a place in each of these lanes: 0.0 when had, None when the item waits for one, else seconds until it
        may be worth while to come again."""
        now = self._clock.monotonic()
        lanes = [self._lane(name) for name in names]
        full = next((lane for lane in lanes if lane.running >= lane.most), None)
        if full is None:
            for lane in lanes:
                lane.running += 1
                if lane.running == lane.most:
                    lane.full_since = now
            return 0.0
        pace_s = full.pace(now)
        soon = (len(full.waiting) + 1) * pace_s / full.most <= self._patience_s
        if soon and all(lane.held < lane.most * HELD for lane in lanes):
            full.waiting.append((names, item))
            self._hold(names, 1)
            return None
        full.free_at = min(max(full.free_at, now) + pace_s / full.most, now + LONGEST_WAIT_S)
        return max(SHORTEST_WAIT_S, full.free_at - now)

    def leave(self, names: Sequence[Name], took_s: float) -> Iterator[T]:
        """Give the places back, and say how long they were needed; those who waited for one, to enter again."""
        for name in names:
            lane = self._lane(name)
            lane.running -= 1
            lane.pace_s = 0.7 * lane.pace_s + 0.3 * took_s
        for name in names:
            lane = self._lane(name)
            while lane.waiting and lane.running < lane.most:
                held, item = lane.waiting.popleft()
                self._hold(held, -1)
                yield item
            if lane.running < lane.most:
                lane.free_at = 0.0
        if len(self._lanes) > MOST_LANES:
            now = self._clock.monotonic()
            kept = {name: one for name, one in self._lanes.items() if one.running or one.held or one.free_at > now}
            self._lanes = kept

    def give_up(self) -> list[T]:
        """All that wait, who wait no longer."""
        items = []
        for lane in self._lanes.values():
            while lane.waiting:
                names, item = lane.waiting.popleft()
                self._hold(names, -1)
                items.append(item)
        return items

    def _hold(self, names: Sequence[Name], more: int) -> None:
        self.held += more
        for name in names:
            self._lane(name).held += more

    def _lane(self, name: Name) -> _Lane[T]:
        lane = self._lanes.get(name)
        if lane is None:
            lane = self._lanes[name] = _Lane(self._most[name[0]])
        return lane
