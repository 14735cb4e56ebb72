"""Hiding: what a body raised, without the secrets that the executor knows, in all that could be shown of it."""

from __future__ import annotations

import contextlib
import opcode
from collections.abc import Iterator, Mapping
from inspect import CO_ASYNC_GENERATOR, CO_COROUTINE, CO_GENERATOR
from types import FrameType, TracebackType
from typing import Any, Final

from toolpost.calls.disguises import ROUNDS, undone
from toolpost.calls.errors import ToolExecutionError
from toolpost.calls.redaction import HIDDEN, Redactor

MOST: Final = 1000
"""How many exceptions behind and within one are looked at. One with more is replaced."""
MOST_TEXTS: Final = 10_000
_MAY_BE_SUSPENDED: Final = CO_COROUTINE | CO_GENERATOR | CO_ASYNC_GENERATOR
_YIELDS: Final = opcode.opmap["YIELD_VALUE"]


class WithheldError(Exception):
    """Stands for an exception whose text shows a secret and cannot be changed."""


def hidden(raised: BaseException, redactor: Redactor, arguments: Any = None) -> BaseException:
    """The exception with secrets hidden in its text, in those behind it, and in their notes and attributes.

    The exceptions themselves are changed, as their handlers and their classes should be what they were; one that shows
    a secret even then is replaced. The local variables of the frames that they came through are let go of, which is
    what error reporters that show them would send away.

    What ends with the beginning of a secret was cut off there, unless arguments, those of the call, hold it: whoever
    guesses is not told how far he is right.
    """
    given = _Given(arguments)
    found = list(_all(raised))
    for one in found:
        _hide(one, redactor, given)
        _forget_locals(one.__traceback__)
    if len(found) > MOST:
        return _stand_in(raised)
    for one in found:
        for name in ("__cause__", "__context__"):
            behind = getattr(one, name)
            if behind is not None and _shows(behind, redactor):
                suppressed = one.__suppress_context__
                setattr(one, name, _stand_in(behind))
                one.__suppress_context__ = suppressed
    return _stand_in(raised) if _shows(raised, redactor) else raised


def hide_error(error: ToolExecutionError, redactor: Redactor) -> None:
    """Hide secrets in the message and the details of an error of ours that no body raised."""
    if redactor.active:
        _hide(error, redactor, None)


def _all(raised: BaseException) -> Iterator[BaseException]:
    """The exception and those behind it and within it, each once; one more than MOST where there are too many."""
    waiting, seen = [raised], set[int]()
    while waiting and len(seen) <= MOST:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        waiting += [behind for behind in (one.__cause__, one.__context__) if behind is not None]
        if isinstance(one, BaseExceptionGroup):
            waiting += one.exceptions


class _Given:
    """Whether a text stands in the arguments of a call, as it is or escaped."""

    def __init__(self, arguments: Any) -> None:
        self._arguments = arguments
        self._texts: list[str] | None = None

    def __call__(self, text: str) -> bool:
        if self._texts is None:
            self._texts = list(_texts(self._arguments))
        return any(text.casefold() in one for one in self._texts)


def _texts(value: Any) -> Iterator[str]:
    """The texts in arguments, with each layer of escapes undone, in one case."""
    waiting, seen = [value], 0
    while waiting and seen < MOST_TEXTS:
        value, seen = waiting.pop(), seen + 1
        if isinstance(value, Mapping):
            waiting += [*value, *value.values()]
        elif isinstance(value, (list, tuple, set, frozenset)):
            waiting += value
        elif isinstance(value, (str, int, float)):
            text: str | None = str(value)
            for _ in range(ROUNDS):
                if text is None:
                    break
                yield text.casefold()
                text = undone(text)


def _hide(one: BaseException, redactor: Redactor, given: _Given | None) -> None:
    """given is None where nothing was cut."""
    try:
        args = tuple(_shown(arg, redactor, given) for arg in one.args)
        if any(new is not old for new, old in zip(args, one.args, strict=True)):
            one.args = args
    except Exception:  # an author's own property
        pass
    for name in (*getattr(one, "__dict__", ()), *_slots(one)):
        try:
            value = getattr(one, name)
            new = _shown(value, redactor, given)
            if new is not value:
                setattr(one, name, new)
        except Exception:
            continue


def _slots(one: BaseException) -> Iterator[str]:
    """Where the built-in exceptions, and classes with slots, keep what they tell."""
    for kind in type(one).__mro__:
        if kind not in (BaseException, Exception, object):
            for name, member in vars(kind).items():
                if type(member).__name__ in ("member_descriptor", "getset_descriptor") and not name.startswith("__"):
                    yield name


def _shown(value: Any, redactor: Redactor, given: _Given | None) -> Any:
    if isinstance(value, BaseException) or callable(value):
        return value
    if isinstance(value, str):
        new = redactor.text(str(value), cut=given is not None, given=given)
        return value if new == value else new
    if isinstance(value, dict) and value.__class__ is dict:
        made = {name: _shown(item, redactor, given) for name, item in value.items()}
        value = made if any(made[name] is not item for name, item in value.items()) else value
    return redactor.value(value)


def _shows(one: BaseException, redactor: Redactor) -> bool:
    waiting = [one]
    while waiting:
        one = waiting.pop()
        for written in (str, repr, lambda one: repr(one.args)):
            with contextlib.suppress(Exception):  # what cannot be written shows nothing
                if redactor.shows(written(one)):
                    return True
        if isinstance(one, BaseExceptionGroup):
            waiting += one.exceptions
    return False


def _stand_in(one: BaseException) -> WithheldError:
    made = WithheldError(f"{type(one).__name__}: {HIDDEN}")
    made.__traceback__ = one.__traceback__
    return made


def _forget_locals(walked: TracebackType | None) -> None:
    """Empty the frames that have ended. (traceback.clear_frames would also end generators that only wait.)"""
    while walked is not None:
        frame = walked.tb_frame
        if not _waits(frame):
            with contextlib.suppress(RuntimeError):  # it is still running
                frame.clear()
        walked = walked.tb_next


def _waits(frame: FrameType) -> bool:
    """Whether a frame may be one of a generator or coroutine that is suspended."""
    code = frame.f_code
    return bool(code.co_flags & _MAY_BE_SUSPENDED) and (frame.f_lasti < 0 or code.co_code[frame.f_lasti] == _YIELDS)


__all__ = ["WithheldError", "hidden", "hide_error"]
