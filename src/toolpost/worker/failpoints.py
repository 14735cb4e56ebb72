"""Failpoints: boundaries at which tests have a process die, freeze, hang or fail; off, and free, unless armed.

TOOLPOST_FAILPOINTS=name:action[:probability[:after]],... arms them when a Service starts. action is die (SIGKILL),
exit, freeze (SIGSTOP), error (StoreUnavailableError) or hang=seconds. after: so many passes go by first.
"""

from __future__ import annotations

import logging
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

from toolpost.calls.errors import ConfigurationError, StoreUnavailableError

logger = logging.getLogger("toolpost.worker")

VARIABLE = "TOOLPOST_FAILPOINTS"
NAMES = frozenset(
    "accept.before accept.after claim.before claim.after run.before run.after blob.before blob.after finish.before "
    "finish.after renew lost cancel.seen drain.begin sweep.before events.before".split()
)
_armed: dict[str, _Failpoint] = {}


@dataclass(slots=True)
class _Failpoint:
    name: str
    act: Callable[[str], None]
    probability: float
    after: int

    def reach(self) -> None:
        if self.after > 0:
            self.after -= 1
        elif self.probability >= 1.0 or random.random() < self.probability:
            logger.warning("failpoint %s", self.name)
            self.act(self.name)


def fp(name: str) -> None:
    """A boundary. Does nothing unless a failpoint of that name is armed."""
    if _armed:
        found = _armed.get(name)
        if found is not None:
            found.reach()


def arm(said: str | None) -> None:
    """Arm what said names, and nothing else. Raises ConfigurationError for what is no failpoint."""
    armed = [_read(one) for one in (said or "").split(",") if one.strip()]
    _armed.clear()
    _armed.update((one.name, one) for one in armed)


def arm_from_environment() -> None:
    """Arm what TOOLPOST_FAILPOINTS names."""
    arm(os.environ.get(VARIABLE))


def _read(said: str) -> _Failpoint:
    name, action, probability, after, *more = [*said.strip().split(":"), "", "", ""][: max(4, said.count(":") + 1)]
    if name not in NAMES:
        raise ConfigurationError(f"{VARIABLE}: {name!r} is no failpoint; there are {', '.join(sorted(NAMES))}")
    try:
        if more:
            raise ValueError
        return _Failpoint(name, _action(action), float(probability or 1.0), int(after or 0))
    except ValueError:
        raise ConfigurationError(
            f"{VARIABLE}: {said!r} must be name:action[:probability[:after]] with an action of die, exit, freeze, "
            f"error or hang=seconds"
        ) from None


def _action(said: str) -> Callable[[str], None]:
    kind, _, seconds = said.partition("=")
    if kind == "hang":
        for_s = float(seconds)
        return lambda name: time.sleep(for_s)
    return _ACTIONS.get(said) or _none(said)


def _none(said: str) -> Callable[[str], None]:
    raise ValueError(said)


def _signalled(number: str) -> Callable[[str], None]:
    return lambda name: os.kill(os.getpid(), getattr(signal, number))  # not there on every system


def _fail(name: str) -> None:
    raise StoreUnavailableError(f"failpoint {name}")


_ACTIONS: dict[str, Callable[[str], None]] = {
    "die": _signalled("SIGKILL"),
    "freeze": _signalled("SIGSTOP"),
    "exit": lambda name: os._exit(70),
    "error": _fail,
}

__all__ = ["NAMES", "VARIABLE", "arm", "arm_from_environment", "fp"]
