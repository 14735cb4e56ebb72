"""Places: how many calls of doors run at a time in one process; the rest wait in line, and no more than so many."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Hashable

from toolpost.calls.errors import OverloadedError

SHORTEST_S, LONGEST_S = 0.1, 60.0
"""Between these is what is said about when there may be a place."""


class Places:
    """Counts calls in one event loop. taken: how many have a place; waiting: how many wait for one.

    Callers take turns: places go to one after the other of those that wait, whoever has how many calls there. When the
    line is full, one who has fewer in it than another by two or more takes the place of that one's newest.
    """

    def __init__(self, limit: int, max_waiting: int) -> None:
        self.limit, self.max_waiting = limit, max_waiting
        self.taken = self.waiting = 0
        self.mean_s = 0.1
        """How long calls take, as a moving mean."""
        self._lines: dict[Hashable, deque[asyncio.Future[bool]]] = {}
        """Who waits, by caller; the caller whose turn it is first. A future says whether there is a place."""

    @property
    def free(self) -> bool:
        """Whether a call may take a place at once: taken += 1."""
        return self.taken < self.limit and not self.waiting

    async def wait(self, tool: str, patience_s: float | None, who: Hashable = None) -> None:
        """Take a place, in turn. Raises OverloadedError when too many wait, or after patience_s."""
        if self.free:
            self.taken += 1
            return
        if self.waiting >= self.max_waiting and not self._made_room(who):
            raise self._full(tool)
        place: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._lines.setdefault(who, deque()).append(place)
        self.waiting += 1
        try:
            async with asyncio.timeout(patience_s):
                given = await place
        except BaseException as raised:
            if not place.done() or place.cancelled():
                self._drop(who, place)
            elif place.result():
                self.leave()  # it was given in the same moment
            if isinstance(raised, TimeoutError):
                raise self.refusal(f"no place was free within the call's deadline of {patience_s:g} s", tool) from None
            raise
        if not given:
            raise self._full(tool)

    def leave(self) -> None:
        """Give a place to whoever waits longest of the caller whose turn it is, or back."""
        while self._lines:
            who = next(iter(self._lines))
            line = self._lines.pop(who)
            place = line.popleft()
            self.waiting -= 1
            if line:
                self._lines[who] = line  # behind all others
            if not place.done():
                place.set_result(True)
                return
        self.taken -= 1

    def _made_room(self, who: Hashable) -> bool:
        """Whether somebody who has far more calls in the line than this caller lost one of them."""
        if not self._lines:
            return False
        heaviest = max(self._lines, key=lambda one: len(self._lines[one]))
        line = self._lines[heaviest]
        if len(line) < len(self._lines.get(who, ())) + 2:
            return False
        newest = line.pop()
        self.waiting -= 1
        if not newest.done():
            newest.set_result(False)
        return True

    def _drop(self, who: Hashable, place: asyncio.Future[bool]) -> None:
        """Take out of the line what waits no longer; leave() may have passed over it already."""
        line = self._lines.get(who)
        if line is not None and place in line:
            line.remove(place)
            self.waiting -= 1
            if not line:
                del self._lines[who]

    def _full(self, tool: str) -> OverloadedError:
        return self.refusal(f"{self.taken} calls run and {self.waiting} wait for a place", tool)

    def refusal(self, why: str, tool: str) -> OverloadedError:
        """What those get for whom there is no place."""
        after_s = (self.waiting + 1) / max(1, self.limit) * self.mean_s
        error = OverloadedError(f"there is no room to run the call now: {why}; try again later", tool=tool)
        error.retry_after_s = min(LONGEST_S, max(SHORTEST_S, after_s))
        return error


__all__ = ["Places"]
