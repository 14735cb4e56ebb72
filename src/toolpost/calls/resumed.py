"""resumed: the rest of a coroutine whose first step was made by hand, since most calls have ended with that."""

from __future__ import annotations

import types
from collections.abc import Generator
from typing import Any


@types.coroutine
def resumed(work: Any, parked: Any) -> Generator[Any, Any, Any]:
    """The rest of a coroutine that has suspended at parked."""
    try:
        while True:
            try:
                sent = yield parked
            except GeneratorExit:
                work.close()
                raise
            except BaseException as thrown:
                parked = work.throw(thrown)
            else:
                parked = work.send(sent)
    except StopIteration as done:
        return done.value


__all__ = ["resumed"]
