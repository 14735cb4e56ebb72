"""Pins: what a model and a reviewer see of tools, as a lock file has it; whatever differs from that is refused.

No code is in it: bytecode differs between versions of Python. What a body does is reviewed where code is; a lock is
about what models are told, and about what stands between them and the body.
"""

from __future__ import annotations

import difflib
import enum
import hashlib
import json
import weakref
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Final

from toolpost.calls.definition import DbBody, FunctionBody, HttpBody, ToolDefinition
from toolpost.calls.errors import ConfigurationError, DefinitionDriftError
from toolpost.calls.policies import Unset
from toolpost.calls.secret_names import CREDENTIAL
from toolpost.security.unseen import visible

FORMAT: Final = 1
MAX_DIFF_LINES: Final = 200
MAX_LINE: Final = 300
SAFETY: Final = ("access", "approval", "egress", "oauth", "screening")
"""The policies that stand between a model and a body."""
PARTS: Final = ("description", "parameters", "returns", "safety", "body")

Face = dict[str, Any]
"""What is pinned of one tool, as JSON: one value for each of PARTS."""


def face_of(tool: ToolDefinition) -> Face:
    """What a model and a reviewer see of a tool; equal in every process, on every machine and Python."""
    hints = {one.name: getattr(tool.hints, one.name) for one in fields(tool.hints)}
    policies = {name: _plain(getattr(tool.policies, name)) for name in SAFETY if _is_said(tool, name)}
    return {
        "description": {
            "text": tool.description.split("\n"),
            **({"deprecated": tool.deprecated} if tool.deprecated else {}),
            **({"examples": _plain(tool.examples)} if tool.examples else {}),
        },
        "parameters": _plain(tool.parameters),
        "returns": _plain(tool.returns),
        "safety": {
            "hints": {name: value for name, value in hints.items() if value is not None},
            "permissions": sorted(tool.permissions),
            "policies": policies,
            "requires_auth": tool.requires_auth,
        },
        "body": _body(tool),
    }


def _is_said(tool: ToolDefinition, policy: str) -> bool:
    return not isinstance(getattr(tool.policies, policy), Unset)


def _body(tool: ToolDefinition) -> Face:
    """The kind of body, and where it goes; never a header's or parameter's value, which may be a credential."""
    body = tool.body
    if isinstance(body, HttpBody):
        url, _, query = body.url.partition("?")
        names = sorted({*map(str, body.query), *(part.partition("=")[0] for part in query.split("&") if part)})
        sends = {"headers": sorted(body.headers), "query": names, "body": body.body is not None}
        return {"kind": "http", "method": body.method, "url": url, **sends}
    if isinstance(body, DbBody):
        plain = {
            name: value
            for name, value in body.settings.items()
            if isinstance(value, (str, int, float, bool)) and not CREDENTIAL.search(name) and "://" not in str(value)
        }
        return {"kind": "database", "driver": str(getattr(body.driver, "value", body.driver)), "settings": plain}
    if isinstance(body, FunctionBody):
        return {"kind": "function"}
    return {"kind": type(body).__name__.removesuffix("Body").lower()}


def _plain(value: Any) -> Any:
    """A policy or schema as JSON: of policies what differs from the defaults, of code its name."""
    if isinstance(value, enum.Enum):
        return _plain(value.value)
    if value is None or isinstance(value, (str, int, float)):
        return value
    if is_dataclass(value) and not isinstance(value, type):
        told = {
            one.name: _plain(getattr(value, one.name))
            for one in fields(value)
            if one.default is MISSING or getattr(value, one.name) != one.default
        }
        return {"policy": type(value).__name__, **told}
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, Set):
        return sorted((_plain(item) for item in value), key=_text)
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    # Without its module, which has another name where it is the program itself, or was loaded from its file.
    func = getattr(value, "__func__", value)
    return f"code: {func.__qualname__ if hasattr(func, '__qualname__') else type(value).__qualname__}"


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def digest_of(value: Any) -> str:
    """SHA-256 of a JSON value in its one form."""
    return f"sha256:{hashlib.sha256(_text(value).encode()).hexdigest()}"


def face_digest(tool: ToolDefinition) -> str:
    """The digest of what is seen of a tool."""
    return digest_of([tool.name, tool.version, face_of(tool)])


def place_of(tool: ToolDefinition) -> str:
    """Under which name a tool stands in a lock."""
    return f"{tool.name}@{tool.version}"


def entry_of(tool: ToolDefinition) -> Face:
    """One tool in a lock: its face, a digest of each part, and one of all."""
    face = face_of(tool)
    return {**face, "digests": {**{part: digest_of(face[part]) for part in PARTS}, "all": face_digest(tool)}}


def locked(tools: Iterable[ToolDefinition]) -> str:
    """The text of a lock of these tools: JSON in one form, one line for each thing that may change.

    Characters that nobody sees are written as escapes. Raises ConfigurationError for two tools of one name and version.
    """
    entries: dict[str, Face] = {}
    for tool in tools:
        if entries.setdefault(place_of(tool), entry := entry_of(tool)) != entry:
            raise ConfigurationError(f"there are two tools {place_of(tool)} that differ; give one another version")
    return written(entries)


def written(entries: Mapping[str, Face]) -> str:
    """Entries by place as a lock's text."""
    told = {"toolpost_lock": FORMAT, "tools": dict(entries)}
    text = json.dumps(told, sort_keys=True, indent=2, ensure_ascii=False)
    return f"{visible(text)}\n"


def entries_in(text: str, where: str) -> dict[str, Face]:
    """The entries of a lock's text. Raises ConfigurationError for what no `toolpost lock` wrote."""
    try:
        told = json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"{where} is no lock file ({error}); write it with `toolpost lock`") from None
    if not isinstance(told, dict) or not isinstance(told.get("tools"), dict):
        raise ConfigurationError(f"{where} is no lock file; write it with `toolpost lock`")
    if told.get("toolpost_lock") != FORMAT:
        raise ConfigurationError(
            f"{where} has the format {told.get('toolpost_lock')!r:.20}, and this version of toolpost reads {FORMAT}; "
            f"write it anew with `toolpost lock`"
        )
    entries: dict[str, Face] = told["tools"]
    for place, entry in entries.items():
        if not _is_true(place, entry):
            raise ConfigurationError(
                f"{where}: the digests of {place} do not fit what stands there, so somebody changed it by hand, or a "
                f"merge did; review it and write it anew with `toolpost lock`"
            )
    return entries


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    told = dict(pairs)
    if len(told) != len(pairs):
        raise ValueError("a name stands in it twice")
    return told


def _is_true(place: str, entry: Any) -> bool:
    if not isinstance(entry, dict) or entry.keys() != {*PARTS, "digests"} or not isinstance(entry["digests"], dict):
        return False
    name, _, version = place.rpartition("@")
    face = {part: entry[part] for part in PARTS}
    told = {**{part: digest_of(face[part]) for part in PARTS}, "all": digest_of([name, version, face])}
    return bool(entry["digests"] == told)


class Pins:
    """The definitions that a lock allows. Safe from any thread; the file is read once."""

    def __init__(self, entries: Mapping[str, Face], where: str = "the lock") -> None:
        self.entries, self.where = dict(entries), where
        self._held: weakref.WeakKeyDictionary[ToolDefinition, bool] = weakref.WeakKeyDictionary()

    @classmethod
    def read(cls, path: Path) -> Pins:
        """The pins in a file. Raises ConfigurationError when it cannot be read, or is no lock file."""
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise ConfigurationError(f"lock_file {path} cannot be read: {why}; write it with `toolpost lock`") from None
        return cls(entries_in(text, str(path)), path.name)

    def check(self, tool: ToolDefinition) -> None:
        """Raise DefinitionDriftError for a tool that is not the one in the lock, with what differs."""
        error = self.drift(tool)
        if error is not None:
            raise error

    def hold(self, tool: ToolDefinition) -> bool:
        """Whether a tool is the one in the lock; looked up once for each definition."""
        held = self._held.get(tool)
        if held is None:
            held = self._held[tool] = self.drift(tool) is None
        return held

    def drift(self, tool: ToolDefinition) -> DefinitionDriftError | None:
        """What is wrong with a tool; None when it is the one in the lock."""
        place = place_of(tool)
        pinned = self.entries.get(place)
        if pinned is None:
            others = sorted(one for one in self.entries if one.rpartition("@")[0] == tool.name)
            there = f"; it has {', '.join(others)}" if others else ""
            return DefinitionDriftError(
                f"{place} is not in {self.where}{there}, so it is refused; review it and run `toolpost lock`",
                tool=tool.name,
                details={"why": "unknown", "tool": tool.name, "version": tool.version, "locked": others},
            )
        entry = entry_of(tool)
        if entry["digests"] == pinned["digests"]:
            return None
        parts = [part for part in PARTS if entry["digests"][part] != pinned["digests"][part]]
        return DefinitionDriftError(
            f"{place} is not the tool that {self.where} has: its {', '.join(parts)} changed, so it is refused; review "
            f"the change and run `toolpost lock`",
            tool=tool.name,
            details={
                "why": "drift",
                "tool": tool.name,
                "version": tool.version,
                "changed": parts,
                "diff": diff_of(pinned, entry, place),
            },
        )

    def absent(self, tools: Iterable[ToolDefinition]) -> list[str]:
        """What is locked and not among these tools."""
        return sorted(self.entries.keys() - {place_of(tool) for tool in tools})


def diff_of(before: Face, after: Face, place: str) -> str:
    """What differs between two entries, as a unified diff; at most MAX_DIFF_LINES lines of MAX_LINE characters."""
    found = difflib.unified_diff(
        _lines(before), _lines(after), fromfile=f"locked {place}", tofile=f"found {place}", lineterm="", n=2
    )
    return "\n".join(_bounded(found))


def _lines(entry: Face) -> list[str]:
    face = {part: entry[part] for part in PARTS}
    text = visible(json.dumps(face, sort_keys=True, indent=2, ensure_ascii=False))
    return text.split("\n")[:20_000]


def _bounded(lines: Iterator[str]) -> Iterator[str]:
    for number, line in enumerate(lines):
        if number == MAX_DIFF_LINES:
            yield f"... and more; at most {MAX_DIFF_LINES} lines are shown"
            return
        yield line if len(line) <= MAX_LINE else f"{line[:MAX_LINE]}... ({len(line)} characters)"


__all__ = ["Pins", "entries_in", "entry_of", "face_digest", "face_of", "locked", "place_of"]
