"""What an approver is shown of a call: its arguments without secrets, what is odd in them, what changed since last."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

import orjson

from toolpost.calls.redaction import Redactor, scrub
from toolpost.calls.secret_names import HIDDEN, could_be_secret, is_marked, secret_name
from toolpost.security.unseen import unseen_in

MAX_TEXT: Final = 4_000
"""Most characters of one text that are kept; of a longer one its start, its length and its digest."""
MAX_BYTES: Final = 65_536
"""Most bytes of all arguments that are kept; the largest of them give way to their digests."""
MIN_CUT: Final = 200
"""Values of fewer bytes, with their names, are not replaced by digests, which are no shorter."""
MAX_NAMED: Final = 100
"""Most places that hidden and cut name each."""
MAX_CHANGES: Final = 20
REST: Final = "…"
"""Under which name the arguments stand that are too many to be kept."""


class Shown(NamedTuple):
    """arguments: JSON, fit to be kept and shown. hidden and cut: JSON Pointers to what is not there in full."""

    arguments: Any
    hidden: tuple[str, ...]
    cut: tuple[str, ...]
    odd: tuple[str, ...]

    @property
    def whole(self) -> bool:
        """Whether the call can be made again from arguments."""
        return not (self.hidden or self.cut)


def shown(arguments: Mapping[str, Any], schema: Mapping[str, Any], redactor: Redactor) -> Shown:
    """What is kept of arguments (JSON). schema is the tool's parameters.

    Hidden is what the schema marks (writeOnly, x-secret, format password), what is named as a secret, what looks like
    a key, and every secret that the redactor knows.
    """
    telling = _Telling(schema, redactor)
    told = telling.members(arguments, schema, "")
    _fit(told, telling.cut)
    odd = tuple(unseen_in(arguments))
    return Shown(told, _first(telling.hidden), _first(telling.cut), odd)


def _fit(told: dict[str, Any], cut: list[str]) -> None:
    """Have no more than MAX_BYTES in all: the largest values give way first; where names alone are too many, they."""
    sizes = {name: _size({name: value}) for name, value in told.items()}
    room = MAX_BYTES - sum(sizes.values())
    for name in sorted(sizes, key=lambda one: -sizes[one]):
        if room >= 0 or sizes[name] < MIN_CUT:
            break
        data = orjson.dumps(told[name])
        told[name] = f"[{len(data)} bytes of JSON, sha256 {_digest(data)}]"
        cut.append(f"/{_step(name)}")
        sizes[name], before = _size({name: told[name]}), sizes[name]
        room += before - sizes[name]
    if room < 0:
        gone = {}
        for name in sorted(sizes, key=lambda one: -sizes[one]):
            if room >= 0:
                break
            gone[name] = told.pop(name)
            room += sizes[name]
        told[REST] = f"[{len(gone)} more arguments, sha256 {_digest(orjson.dumps(gone))}]"
        cut.append(f"/{REST}")


def _size(value: Any) -> int:
    return len(orjson.dumps(value))


def _first(paths: list[str]) -> tuple[str, ...]:
    if len(paths) <= MAX_NAMED:
        return tuple(paths)
    return (*paths[:MAX_NAMED], f"and {len(paths) - MAX_NAMED} more")


class _Telling:
    """One walk through arguments beside their schema."""

    def __init__(self, root: Mapping[str, Any], redactor: Redactor) -> None:
        self.root, self.redactor = root, redactor
        self.hidden: list[str] = []
        self.cut: list[str] = []
        self.twins = itertools.count(2)

    def members(self, value: Mapping[str, Any], schema: Any, path: str) -> dict[str, Any]:
        """The members of an object. Names are texts of the caller's, too: of those that hide secrets none gets lost."""
        told: dict[str, Any] = {}
        for name, item in value.items():
            safe = self.redactor.text(scrub(name))
            if safe != name:
                self.hidden.append(f"{path}/{_step(safe)}")
            shown_as = safe
            while shown_as in told:
                shown_as = f"{safe} ({next(self.twins)})"
            told[shown_as] = self._member(name, item, schema, f"{path}/{_step(safe)}")
        return told

    def _member(self, name: str, value: Any, schema: Any, path: str) -> Any:
        below = self._below(schema, name)
        if could_be_secret(value) and (secret_name(name) or self._is_marked(below)):
            self.hidden.append(path)
            return HIDDEN
        return self._value(value, below, path)

    def _value(self, value: Any, schema: Any, path: str) -> Any:
        if isinstance(value, str):
            return self._text(value, path)
        if isinstance(value, Mapping):
            return self.members(value, schema, path)
        if isinstance(value, (list, tuple)):
            schema = self._there(schema)
            items = schema.get("items") if isinstance(schema, Mapping) else None
            if self._is_marked(items):
                self.hidden.append(path)
                return HIDDEN
            return [self._value(item, items, f"{path}/{at}") for at, item in enumerate(value)]
        if not isinstance(value, bool) and value is not None and self.redactor.text(str(value)) != str(value):
            self.hidden.append(path)
            return HIDDEN
        return value

    def _text(self, value: str, path: str) -> str:
        safe = self.redactor.text(scrub(value))
        if safe != value:
            self.hidden.append(path)
        if len(safe) <= MAX_TEXT:
            return safe
        self.cut.append(path)
        return f"{safe[:MAX_TEXT]}[… {len(value)} characters, sha256 {_digest(safe.encode())}]"

    def _is_marked(self, schema: Any, depth: int = 0) -> bool:
        schema = self._there(schema)
        if not isinstance(schema, Mapping) or depth > 8:
            return False
        if is_marked(schema):
            return True
        kinds = (schema.get(kind) for kind in ("anyOf", "oneOf", "allOf"))
        return any(self._is_marked(one, depth + 1) for kind in kinds if isinstance(kind, list) for one in kind)

    def _below(self, schema: Any, name: str, depth: int = 0) -> Any:
        schema = self._there(schema)
        if not isinstance(schema, Mapping) or depth > 8:
            return None
        properties = schema.get("properties")
        found = properties.get(name) if isinstance(properties, Mapping) else None
        if found is None:  # an optional object is one of several schemas
            kinds = (schema.get(kind) for kind in ("anyOf", "oneOf", "allOf"))
            below = (self._below(one, name, depth + 1) for kind in kinds if isinstance(kind, list) for one in kind)
            found = next((one for one in below if one is not None), schema.get("additionalProperties"))
        return found

    def _there(self, schema: Any) -> Any:
        """What a reference within the schema names."""
        for _ in range(8):
            reference = schema.get("$ref") if isinstance(schema, Mapping) else None
            if not isinstance(reference, str) or not reference.startswith("#/"):
                return schema
            schema = self.root
            for step in reference[2:].split("/"):
                step = step.replace("~1", "/").replace("~0", "~")
                schema = schema.get(step) if isinstance(schema, Mapping) else None
        return None


def changes(before: Any, now: Any) -> list[dict[str, Any]]:
    """Where two JSON values differ: path, before and now (absent where there is none), at most MAX_CHANGES."""
    return list(itertools.islice(_changes(before, now, ""), MAX_CHANGES))


def _changes(before: Any, now: Any, path: str) -> Iterator[dict[str, Any]]:
    if orjson.dumps(before, option=orjson.OPT_SORT_KEYS) == orjson.dumps(now, option=orjson.OPT_SORT_KEYS):
        return  # to Python True is 1, and 1 is 1.0
    if isinstance(before, dict) and isinstance(now, dict):
        for name in sorted({*before, *now}):
            below = f"{path}/{_step(name)}"
            if name not in now:
                yield {"path": below, "before": before[name]}
            elif name not in before:
                yield {"path": below, "now": now[name]}
            else:
                yield from _changes(before[name], now[name], below)
    else:
        yield {"path": path, "before": before, "now": now}


def _step(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")[:128]


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


__all__ = ["Shown", "changes", "shown"]
