"""Hides secrets in whatever is about to be shown or kept: those that are known, by value, and what looks like one."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
import re
import threading
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Mapping
from typing import Any, Final, overload

import orjson

from toolpost.calls.many_needles import ManyNeedles, fits
from toolpost.calls.needles import SHORTEST, Finder, Forms, forms_of
from toolpost.calls.secret_names import ASSIGNED, HIDDEN

MOST: Final = 1000
"""How many values a Redactor hides; those that were longest not in use go first."""
MOST_TOKENS: Final = 5000
"""How many tokens it hides besides."""

logger = logging.getLogger("toolpost")

_KEY_LIKE: Final = re.compile(
    r"-----BEGIN [A-Z0-9 ]+-----[\s\S]*?(?:-----END [A-Z0-9 ]+-----|\Z)"
    r"|\beyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*){0,4}"
    r"|\b(?i:bearer)\s+[A-Za-z0-9._~+/=-]{8,}|\b(?i:basic)\s+(?=[A-Za-z+/]*[A-Z0-9=])[A-Za-z0-9+/=]{8,}"
    r"|\b[rsp]k[-_][A-Za-z0-9_-]{20,}"
    r"|\bgh[a-z]_[A-Za-z0-9]{16,}|\bgithub_pat_\w{16,}|\bglpat-[\w-]{16,}"
    r"|\b(?:AKIA|ASIA)[0-9A-Z]{12,}|\bAIza[\w-]{30,}|\bxox[a-z]-[\w-]{10,}|\bya29\.[\w-]{16,}"
    r"|\b(?:hf|npm|pypi|whsec|dop_v1)[_-][A-Za-z0-9_-]{20,}"
    r"|(?<=://)[^\s/@:'\"]*:[^\s/@'\"]+(?=@)"
)


def scrub(text: str) -> str:
    """text with what looks like a key, a token or a password in a URL hidden."""
    if len(text) < 11 and "@" not in text:  # shorter than any key; most names and values are
        return text
    return _KEY_LIKE.sub(HIDDEN, text)


def scrub_message(text: str) -> str:
    """scrub for sentences written by others: what is assigned to a secret's name (password=...) is hidden too."""
    return ASSIGNED.sub(lambda found: found[1] + HIDDEN, scrub(text))


class Revealed(str):
    """A secret in the open, for the code that needs it: a str in all but its repr, and never pickled.

    What is made of it (a slice, a header, another text) is an ordinary str.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return HIDDEN

    def __reduce_ex__(self, protocol: object) -> str:
        raise TypeError("a secret is not pickled; resolve its reference where it is needed")

    def __copy__(self) -> Revealed:
        return self

    def __deepcopy__(self, memo: object) -> Revealed:
        return self


class Redactor:
    """Hides secrets by their values, in whatever is about to be shown or kept; safe from any thread.

    active is false as long as there is nothing to hide, so that the hot path need not ask further. on_active is called
    once, when the first value is added. Neither repr, vars nor pickle gives the values away; a debugger that looks into
    closures, and a dump of the process's memory, do.
    """

    __slots__ = ("__weakref__", "_finder", "_known", "_lock", "_many", "_salt", "_tokens", "active", "on_active")

    def __init__(self, on_active: Callable[[], object] | None = None) -> None:
        self.active = False
        self.on_active = on_active
        self._many = ManyNeedles()
        self._tokens: OrderedDict[bytes, Callable[[], str]] = OrderedDict()
        self._finder: Finder | None = Finder((), self._many)
        self._known: OrderedDict[bytes, Callable[[], Forms]] = OrderedDict()
        self._lock = threading.RLock()  # what is logged while it is held, by a finalizer say, is looked through too
        self._salt = os.urandom(16)

    def add(self, value: str | bytes, name: str = "a secret") -> bool:
        """Hide this value from now on, as it is and in its encoded forms; whether that can be done.

        One of fewer than 6 characters cannot be hidden by its value, which is logged under its name. The password of a
        URL, the long lines of a text, and what stands under a secret's name in a JSON object are hidden by themselves
        too.
        """
        kept = str.__str__(value) if isinstance(value, str) else bytes(value)
        digest = self._digest(kept)
        with self._lock:
            if digest in self._known:
                self._known.move_to_end(digest)
                return True
            forms = forms_of(kept)
            first = bool(forms.plain) and not self.active
            if forms.plain:
                self._known[digest] = lambda: forms
                while len(self._known) > MOST:
                    self._known.popitem(last=False)
                self._finder, self.active = None, True
        if not forms.plain:
            logger.warning("%s has fewer than %d characters, so it cannot be hidden by its value", name, SHORTEST)
            return False
        if first:
            self._begin()
        return True

    def add_token(self, token: str) -> None:
        """Hide one of many tokens that come and go: it costs little however many there are, and no other value goes.

        One that is short, or holds what would be an escape, is hidden as add does.
        """
        kept = str.__str__(token)
        if not fits(kept):
            self.add(kept, "a token")
            return
        digest = self._digest(kept)
        with self._lock:
            if digest in self._tokens:
                self._tokens.move_to_end(digest)
                return
            self._tokens[digest] = self._many.add(kept)
            while len(self._tokens) > MOST_TOKENS:
                self._many.drop(self._tokens.popitem(last=False)[1])
            first, self.active = not self.active, True
        if first:
            self._begin()

    def _digest(self, value: str | bytes) -> bytes:
        raw = value if isinstance(value, bytes) else value.encode("utf-8", "surrogatepass")
        return hashlib.blake2b(raw, key=self._salt).digest()

    def _begin(self) -> None:
        """The first value is known."""
        _watch(self)
        if self.on_active is not None:
            self.on_active()

    def _found(self) -> Finder:
        """What finds all that is known now, made at its first use."""
        finder = self._finder
        if finder is None:
            with self._lock:
                finder = self._finder = Finder((forms() for forms in self._known.values()), self._many)
        return finder

    def shows(self, text: str) -> bool:
        """Whether there is a secret in text."""
        return self.active and self._found().shows(text)

    def text(self, text: str, *, cut: bool = False, given: Callable[[str], bool] | None = None) -> str:
        """text without secrets. cut says that it may have been cut, so that it may end within a secret.

        Of what given says that whoever is to see it gave it himself, no beginning of a secret is hidden: he could have
        a secret confirmed one character after the other.
        """
        if not self.active:
            return text
        finder = self._found()
        if finder.shows(text):
            text = _hidden(finder, text)
        if cut:
            size, beginning = finder.begins(text)
            if size and not (given is not None and (given(text[-size:]) or given(beginning))):
                text = text[:-size] + HIDDEN
        return text

    def value(self, value: Any) -> Any:
        """value without secrets, in its texts, its keys and its numbers; the same object where there were none.

        Lists, dicts, sets and dataclasses are looked into. Any other object whose text shows a secret, or the text of
        what it holds, is replaced by its text without it.
        """
        if not self.active or value is None or value.__class__ is bool:
            return value
        if value.__class__ is str:
            return self.text(value)
        try:
            shown = orjson.dumps(value, default=_readable, option=_LENIENT).decode()
        except (TypeError, RecursionError):
            return self._walked(value, 0)
        return self._walked(value, 0) if self._found().shows(shown) else value

    def _walked(self, value: Any, depth: int) -> Any:
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, str):
            hidden = self.text(str.__str__(value))
            return value if hidden == value else hidden
        if isinstance(value, int):
            return HIDDEN if self._found().shows(_digits(value)) else value
        if isinstance(value, float):
            return HIDDEN if self._found().shows(float.__repr__(value)) else value
        if isinstance(value, (bytes, bytearray, memoryview)):
            text = bytes(value).decode("latin-1")
            if not self._found().shows(text):
                return value
            return self.text(text).encode("latin-1")
        if depth > 100:
            return HIDDEN
        if isinstance(value, Mapping):
            return self._walked_dict(value, depth)
        if isinstance(value, (list, tuple, set, frozenset, deque)):
            items = [self._walked(item, depth + 1) for item in value]
            if all(new is old for new, old in zip(items, value, strict=True)):
                return value
            return items if isinstance(value, tuple) and type(value) is not tuple else type(value)(items)
        return self._walked_object(value, depth)

    def _walked_dict(self, value: Mapping[Any, Any], depth: int) -> Any:
        made: dict[Any, Any] = {}
        same = True
        for key, item in value.items():
            name, new = self._walked(key, depth + 1), self._walked(item, depth + 1)
            same = same and name is key and new is item
            if not isinstance(name, Hashable):
                name = HIDDEN
            while name in made:
                name = f"{name}_"
            made[name] = new
        return value if same else made

    def _walked_object(self, value: Any, depth: int) -> Any:
        if _is_dataclass(value):
            fields = _fields_of(value)
            new = {name: self._walked(item, depth + 1) for name, item in fields.items()}
            changed = {name: item for name, item in new.items() if item is not fields[name]}
            if not changed:
                return value
            try:
                return dataclasses.replace(value, **changed)
            except (TypeError, ValueError):
                return new
        shown = _text_of(value)
        if not self._found().shows(shown):
            return value
        if _serializer_of(value) is not None:
            return self._walked(_serializer_of(value).to_python(value, by_alias=True), depth + 1)
        try:
            return self.text(str(value))
        except Exception:
            return HIDDEN

    def __repr__(self) -> str:
        return f"Redactor({len(self._known) + len(self._tokens)} values)"

    def __reduce__(self) -> str:
        raise TypeError("a Redactor is not pickled: it holds secrets")


def _hidden(finder: Finder, text: str) -> str:
    """text with what finder finds replaced. What still shows a secret then is not shown at all."""
    pieces, done = [], 0
    spans = finder.spans(text)
    for begin, end in spans:
        pieces += [text[done:begin], HIDDEN]
        done = end
    hidden = "".join([*pieces, text[done:]])
    return HIDDEN if not spans or finder.shows(hidden) else hidden


_LENIENT: Final = orjson.OPT_NON_STR_KEYS | orjson.OPT_PASSTHROUGH_DATACLASS


def _readable(value: Any) -> Any:
    """What stands for an object that is not JSON when secrets are looked for."""
    if isinstance(value, (set, frozenset, deque)):
        return list(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value).decode("latin-1")
    if isinstance(value, int):  # beyond 64 bits
        return _digits(value)
    if _is_dataclass(value):
        return _fields_of(value)
    return _text_of(value)


def _is_dataclass(value: Any) -> bool:
    """Whether a value is an object of a dataclass. One of pydantic's shows what its serializer makes of its fields."""
    return dataclasses.is_dataclass(value) and not isinstance(value, type) and _serializer_of(value) is None


def _fields_of(value: Any) -> dict[str, Any]:
    return {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)}


def _text_of(value: Any) -> str:
    """What an object would show of itself when printed, with and without its attributes, and when made JSON."""
    shown: list[str] = []
    for show in (str, repr, lambda value: repr(vars(value)), _dumped):
        try:
            shown.append(show(value))
        except Exception:
            continue
    return "\n".join(dict.fromkeys(shown))


def _dumped(value: Any) -> str:
    """A pydantic object as JSON, in which stands what neither its repr nor that of what it holds may show."""
    serializer = _serializer_of(value)
    return "" if serializer is None else serializer.to_json(value, by_alias=True).decode()


def _serializer_of(value: Any) -> Any:
    return getattr(type(value), "__pydantic_serializer__", None)


def _digits(value: int) -> str:
    try:
        return int.__repr__(value)
    except ValueError:  # more digits than Python converts
        return ""


_watched: tuple[weakref.ref[Redactor], ...] = ()
_watching = threading.Lock()


def _watch(redactor: Redactor) -> None:
    global _watched
    with _watching:
        _watched = (*(ref for ref in _watched if ref() is not None), weakref.ref(redactor))


def any_known() -> bool:
    """Whether any Redactor of the process hides anything."""
    return bool(_watched)


@overload
def hide(value: str) -> str: ...
@overload
def hide(value: Any) -> Any: ...
def hide(value: Any) -> Any:
    """value without the secrets of any Redactor of the process: for logs, which are the process's."""
    for ref in _watched:
        redactor = ref()
        if redactor is not None:
            value = redactor.value(value)
    return value


__all__ = ["HIDDEN", "Redactor", "Revealed", "any_known", "hide", "scrub", "scrub_message"]
