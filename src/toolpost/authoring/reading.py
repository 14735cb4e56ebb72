"""Reads Python values as JSON: what values may come in, how deep and how long, and what is wrong with the others."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from decimal import Decimal
from enum import Enum
from typing import Any, Final

from toolpost.authoring import problems as wording
from toolpost.authoring.problems import Finding, Loc
from toolpost.authoring.showing import show

__all__ = ["HUGE", "MAX_DEPTH", "MINUS_HUGE", "Reading", "is_plain"]

MAX_DEPTH: Final = 200
"""How deep a value or a schema may be nested. jsonschema-rs 0.60 itself stops at 255, and only when it copies."""

# 640: so many digits Python always writes out. jsonschema-rs 0.60 needs that; an integer it cannot have it takes for 0.
_MAX_DIGITS: Final = sys.int_info.str_digits_check_threshold
HUGE: Final = 10**_MAX_DIGITS
MINUS_HUGE: Final = -HUGE
"""HUGE and MINUS_HUGE are the first integers that are too long, upwards and downwards."""

_LEAVE: Final = object()


class Reading:
    """Reads any Python value as JSON: a plain copy, and findings for what is not JSON.

    Subclasses of str, int, float, list, tuple and dict count as their base, enum members as their value, any Mapping
    as an object. It keeps its own stack, so that no depth can overflow Python's.
    """

    __slots__ = ("_depth", "_open", "_todo", "count", "faults")

    def __init__(self, depth: int) -> None:
        self._depth = depth
        self._open: set[int] = set()
        self._todo: list[tuple[Any, Loc, Any, Any]] = []
        self.count = 0
        self.faults: list[Finding] = []

    def of(self, value: Any) -> Any:
        """The copy; where there are faults it is not to be used."""
        top: list[Any] = [None]
        self._todo.append((value, (), top, 0))
        while self._todo:
            item, loc, target, key = self._todo.pop()
            if item is _LEAVE:
                self._open.discard(key)
                continue
            self.count += 1
            if isinstance(item, Enum):
                item = item.value
            if not isinstance(item, (Mapping, list, tuple)):
                target[key] = self._scalar(item, loc)
            elif self._may_enter(item, loc):
                target[key] = self._entered(item, loc)
        return top[0]

    def _entered(self, value: Any, loc: Loc) -> Any:
        """The still empty copy of a container; its items are put on the stack, the first on top."""
        self._open.add(id(value))
        self._todo.append((_LEAVE, (), None, id(value)))
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        pairs = [(self._key(key, loc) if isinstance(value, Mapping) else key, item) for key, item in items]
        full: Any = dict.fromkeys([key for key, _ in pairs]) if isinstance(value, Mapping) else [None] * len(pairs)
        self._todo.extend((item, (*loc, key), full, key) for key, item in reversed(pairs))
        return full

    def _may_enter(self, value: Any, loc: Loc) -> bool:
        if id(value) in self._open:
            self._fault(loc, "not_json", "contains itself, so it is not JSON", expected="JSON")
        elif len(loc) >= self._depth:
            says = f"is nested deeper than {self._depth} levels"
            self._fault(loc, "too_deep", says, expected=f"at most {self._depth} levels")
        else:
            return True
        return False

    def _scalar(self, value: Any, loc: Loc) -> Any:
        if value is None or value is True or value is False:
            return value
        if isinstance(value, str):
            text = str.__str__(value)
            if not _is_unicode(text):
                self._fault(loc, "not_unicode", "must be valid Unicode, without lone surrogates", text)
            return text
        if isinstance(value, int):
            number = int.__int__(value)
            if not MINUS_HUGE < number < HUGE:
                self._fault(loc, "too_large", f"must have at most {_MAX_DIGITS} digits", number)
            return number
        if isinstance(value, float):
            value = float.__float__(value)
            if value - value != 0.0:
                self._fault(loc, "not_finite", "must be a finite number", value)
        elif not isinstance(value, Decimal):
            self._fault(loc, "not_json", "must be JSON", value)
        elif not Decimal.is_finite(value):
            self._fault(loc, "not_finite", "must be a finite number", value)
        return value

    def _key(self, key: Any, loc: Loc) -> str:
        if isinstance(key, Enum):
            key = key.value
        if not isinstance(key, str):
            self._fault(loc, "not_json", "must have strings as keys", key)
            return show(key)
        text = str.__str__(key)
        if not _is_unicode(text):
            self._fault(loc, "not_unicode", "must have keys of valid Unicode, without lone surrogates", text)
        return text

    def _fault(
        self, loc: Loc, code: str, says: str, value: Any = wording.NOTHING, *, expected: str | None = None
    ) -> None:
        if len(self.faults) < 10 * wording.MAX_PROBLEMS:
            self.faults.append(wording.must(loc, code, says, value, expected=expected))


def _is_unicode(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_plain(values: Any, room: int) -> bool:
    """Whether all values are JSON of exactly the builtin types, finite, valid Unicode and at most room levels deep.

    A quick no: a value it refuses may still be read by Reading.
    """
    if len(values) > 32 and len(kinds := set(map(type, values))) == 1:
        one = kinds.pop()
        if one is int:
            return bool(min(values) > MINUS_HUGE and max(values) < HUGE)
        if one is str:
            return all(map(str.isascii, values)) or all(map(_is_unicode, values))
    for value in values:
        kind = type(value)
        if kind is str:
            if not value.isascii() and not _is_unicode(value):
                return False
        elif kind is int:
            if not MINUS_HUGE < value < HUGE:
                return False
        elif kind is bool or value is None:
            continue
        elif kind is float:
            if value - value != 0.0:
                return False
        elif kind is dict:
            if room <= 0 or not _are_plain_keys(value) or not is_plain(value.values(), room - 1):
                return False
        elif kind is list:
            if room <= 0 or not is_plain(value, room - 1):
                return False
        else:
            return False
    return True


def _are_plain_keys(value: dict[Any, Any]) -> bool:
    try:
        return _is_unicode("".join(value))
    except TypeError:
        return False
