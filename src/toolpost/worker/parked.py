"""Parked: the rest of a coroutine whose first step was made by hand, since most calls have ended with that."""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from typing import Any, TypeVar

T = TypeVar("T")


class Parked:
    """Awaits the rest of a coroutine that was begun by hand and has suspended at parked."""

    __slots__ = ("_coro", "_parked")

    def __init__(self, coro: Coroutine[Any, Any, T], parked: Any) -> None:
        self._coro, self._parked = coro, parked

    def __await__(self) -> Generator[Any, Any, Any]:
        coro, waiting = self._coro, self._parked
        try:
            while True:
                try:
                    sent = yield waiting
                except GeneratorExit:
                    coro.close()
                    raise
                except BaseException as thrown:
                    waiting = coro.throw(thrown)
                else:
                    waiting = coro.send(sent)
        except StopIteration as done:
            return done.value


__all__ = ["Parked"]
