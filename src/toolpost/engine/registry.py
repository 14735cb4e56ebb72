"""Names -> tools: versions, explicit replacement, hot reload of a module, search, and what a misspelt name meant."""

from __future__ import annotations

import difflib
import importlib
import math
import re
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import ModuleType
from typing import Any

from toolpost.calls.definition import ToolDefinition
from toolpost.calls.errors import ConfigurationError, DuplicateToolError, PluginError, ToolNotFoundError
from toolpost.calls.policies import given


class ToolRegistry:
    """Tools by name and version. A parent, if given, is looked up for what is not here.

    A name stands for its newest version; "name@1.2.0" for that one. Safe from any thread. revision changes with every
    change, here or in the parent.
    """

    def __init__(self, parent: ToolRegistry | None = None) -> None:
        self._parent = parent
        self._tools: dict[str, dict[str, ToolDefinition]] = {}
        self._lock = threading.RLock()
        self._revision = 0
        self._reloading: str | None = None
        self._listeners: list[Callable[[], None]] = []

    @property
    def revision(self) -> int:
        """A number that changes with every change."""
        return self._revision + (self._parent.revision if self._parent is not None else 0)

    def register_tool(self, definition: ToolDefinition, *, replace: bool = False) -> None:
        """Add a tool. A name and version that are taken raise DuplicateToolError unless replace is true."""
        if not isinstance(definition, ToolDefinition):
            hint = "; give its .tool_definition" if hasattr(definition, "tool_definition") else ""
            raise ConfigurationError(f"a registry takes ToolDefinitions, got {type(definition).__name__}{hint}")
        with self._lock:
            versions = self._tools.setdefault(definition.name, {})
            there = versions.get(definition.version)
            reloaded = self._reloading is not None and there is not None and _module(there) == self._reloading
            if there is not None and there is not definition and not replace and not reloaded:
                raise DuplicateToolError(
                    f"a tool named {definition.name!r} of version {definition.version} is registered already (from "
                    f"{there.source or 'code'}); give this one another name or version, or pass replace=True"
                )
            versions[definition.version] = definition
            self._revision += 1
        self._tell()

    def unregister_tool(self, name: str, version: str | None = None) -> None:
        """Remove a tool, or one version of it. Raises ToolNotFoundError when it is not there."""
        name, version = split_name(name, version)
        with self._lock:
            versions = self._tools.get(name, {})
            if not versions or (version is not None and version not in versions):
                raise self._unknown(name, version)
            for gone in [version] if version is not None else list(versions):
                del versions[gone]
            if not versions:
                del self._tools[name]
            self._revision += 1
        self._tell()

    def get_tool(self, name: str, version: str | None = None) -> ToolDefinition:
        """The newest version, or the one asked for. Raises ToolNotFoundError naming what may have been meant."""
        name, version = split_name(name, version)
        versions = self.versions(name)
        if version is None and versions:
            return self._find(name, versions[-1])
        if version in versions:
            return self._find(name, version)
        raise self._unknown(name, version)

    def versions(self, name: str) -> list[str]:
        """The versions there are, oldest first."""
        found = set(self._tools.get(name, ()))
        if self._parent is not None:
            found.update(self._parent.versions(name))
        return sorted(found, key=version_key)

    def list_tools(self) -> list[str]:
        """All names, sorted."""
        names = set(self._tools)
        if self._parent is not None:
            names.update(self._parent.list_tools())
        return sorted(names)

    def definitions(self) -> list[ToolDefinition]:
        """The newest version of every tool, by name."""
        return [self.get_tool(name) for name in self.list_tools()]

    def get_tool_info(self, name: str) -> dict[str, Any]:
        """All that is known of a tool, as JSON values."""
        return info(self.get_tool(name), self.versions(split_name(name, None)[0]))

    def export_all_schemas(self) -> list[dict[str, Any]]:
        """Every tool as {"name", "description", "input_schema"}."""
        return [
            {"name": d.name, "description": d.description, "input_schema": dict(d.parameters)}
            for d in self.definitions()
        ]

    def search(self, query: str, limit: int = 10) -> list[ToolDefinition]:
        """Tools that match a query's words, best first: rare words weigh more, names more than descriptions."""
        return rank(query, self.definitions())[:limit]

    def suggest(self, name: str) -> str | None:
        """The name that a misspelt one probably meant."""
        return _nearest(name, self.list_tools())

    def reload(self, module: str | ModuleType) -> list[str]:
        """Import a module anew and take over its tools; the names it has now.

        Tools that it no longer declares go. When the import fails nothing changes and PluginError says why.
        """
        name = module if isinstance(module, str) else module.__name__
        with self._lock:
            before = {n: dict(v) for n, v in self._tools.items()}
            owned = [(d.name, d.version) for d in self._own() if _module(d) == name]
            self._reloading = name
            for tool, version in owned:
                del self._tools[tool][version]
            try:
                loaded = sys.modules.get(name)
                if loaded is None:
                    importlib.import_module(name)
                else:
                    importlib.reload(loaded)
            except BaseException as exc:
                self._tools = before
                if not isinstance(exc, Exception):
                    raise
                raise PluginError(
                    f"module {name!r} could not be loaded ({type(exc).__name__}: {exc}); nothing changed"
                ) from exc
            finally:
                self._reloading = None
                self._tools = {n: v for n, v in self._tools.items() if v}
                self._revision += 1
                self._tell()
            return sorted({d.name for d in self._own() if _module(d) == name})

    def watch(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Have listener called after every change, here or in the parent; what comes back ends that."""
        stop_above = self._parent.watch(listener) if self._parent is not None else None
        self._listeners.append(listener)

        def stop() -> None:
            if stop_above is not None:
                stop_above()
            if listener in self._listeners:
                self._listeners.remove(listener)

        return stop

    def _tell(self) -> None:
        for listener in tuple(self._listeners):
            listener()

    def _own(self) -> Iterator[ToolDefinition]:
        for versions in list(self._tools.values()):
            yield from list(versions.values())

    def _find(self, name: str, version: str) -> ToolDefinition:
        own = self._tools.get(name, {}).get(version)
        if own is not None:
            return own
        if self._parent is None:
            raise self._unknown(name, version)
        return self._parent._find(name, version)

    def _unknown(self, name: str, version: str | None) -> ToolNotFoundError:
        versions = self.versions(name)
        if versions:
            return ToolNotFoundError(
                f"Tool {name!r} has no version {version!r}; there are {', '.join(versions)}",
                details={"versions": versions},
            )
        return not_found(name, self.list_tools())


def not_found(name: str, known: Sequence[str] | None) -> ToolNotFoundError:
    """The error that there is no tool of a name; known are those that it may name, None if none may be."""
    name = name if len(name) <= 140 else name[:140] + "..."
    message = f"Tool {name!r} not found in registry"
    if known is None:
        return ToolNotFoundError(message)
    near = _nearest(name, known)
    if near is not None:
        return ToolNotFoundError(f"{message}; did you mean {near!r}?", details={"did_you_mean": near})
    listed = ", ".join(known[:10]) + (f" and {len(known) - 10} more" if len(known) > 10 else "")
    return ToolNotFoundError(f"{message}; there are {listed}" if known else f"{message}; it is empty")


def _nearest(name: str, known: Iterable[str]) -> str | None:
    folded = {_fold(one): one for one in known}
    near = difflib.get_close_matches(_fold(name), list(folded), n=1, cutoff=0.6)
    return folded[near[0]] if near else None


def split_name(name: str, version: str | None) -> tuple[str, str | None]:
    """("Math.Add@1.2.0", None) -> ("Math.Add", "1.2.0")."""
    if version is None and isinstance(name, str) and "@" in name:
        name, _, version = name.partition("@")
    return name, version


def version_key(version: str) -> tuple[Any, ...]:
    """Sorts 1.10.0 after 1.9.0, and 2.0.0-rc1 before 2.0.0."""
    main, _, pre = version.partition("-")
    numbers = tuple(int(p) if p.isdigit() else -1 for p in main.split("."))
    return (numbers, pre == "", pre, version)


def info(definition: ToolDefinition, versions: Iterable[str] = ()) -> dict[str, Any]:
    """A definition as JSON values, for people and doors."""
    access = given(definition.policies.access)
    hints = {k: getattr(definition.hints, k) for k in ("title", "read_only", "destructive", "idempotent", "open_world")}
    return {
        "name": definition.name,
        "description": definition.description,
        "version": definition.version,
        "versions": list(versions) or [definition.version],
        "parameters": dict(definition.parameters),
        "returns": dict(definition.returns) if definition.returns is not None else None,
        "requires_auth": definition.requires_auth,
        "permissions": list(definition.permissions),
        "access": access.to_dict() if access is not None else None,
        "timeout_seconds": definition.timeout_seconds,
        "hints": {k: v for k, v in hints.items() if v is not None},
        "tags": list(definition.tags),
        "examples": list(definition.examples),
        "owner": definition.owner,
        "deprecated": definition.deprecated,
        "created_at": definition.created_at,
        "source": definition.source,
        "digest": definition.digest,
    }


def rank(query: str, definitions: Iterable[ToolDefinition]) -> list[ToolDefinition]:
    """Definitions that share a word with the query, best first."""
    return [definition for _, definition in scored(query, definitions)]


def scored(query: str, definitions: Iterable[ToolDefinition]) -> list[tuple[float, ToolDefinition]]:
    """Definitions that share a word with the query and how well they match, best first.

    Words weigh by their inverse document frequency, and more in a name than in a description.
    """
    wanted = _words(query)
    if not wanted:
        return []
    entries = [(d, *_words_of(d)) for d in definitions]
    totals: dict[str, tuple[float, ToolDefinition]] = {}
    for word in set(wanted):
        hits = sum(1 for _, name, text in entries if _matches(word, name) or _matches(word, text))
        weight = math.log(1 + (len(entries) + 1) / (hits + 0.5)) if hits else 0.0
        for definition, name, text in entries:
            score = weight * (3.0 * _matches(word, name) + 1.0 * _matches(word, text))
            if score:
                totals[definition.name] = (totals.get(definition.name, (0.0,))[0] + score, definition)
    return sorted(totals.values(), key=lambda item: (-item[0], item[1].name))


_WORDS: weakref.WeakKeyDictionary[ToolDefinition, tuple[set[str], set[str]]] = weakref.WeakKeyDictionary()


def _words_of(definition: ToolDefinition) -> tuple[set[str], set[str]]:
    """The words of a tool's name, and of its description and tags; they are looked for once."""
    known = _WORDS.get(definition)
    if known is None:
        text = f"{definition.description} {' '.join(definition.tags)}"
        known = _WORDS[definition] = (set(_words(definition.name)), set(_words(text)))
    return known


def _matches(word: str, words: set[str]) -> float:
    if word in words:
        return 1.0
    return (
        0.5 if len(word) > 2 and any(w.startswith(word) or (len(w) > 3 and word.startswith(w)) for w in words) else 0.0
    )


def _words(text: str) -> list[str]:
    split = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", text)
    return [w for w in re.findall(r"[a-z0-9]+", split.lower()) if w not in _STOP]


_STOP = frozenset("a an the of to in on for from and or with by is are be it this that".split())


def _fold(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _module(definition: ToolDefinition) -> str:
    return definition.source.partition(":")[0]


_REGISTRY = ToolRegistry()


def get_tool_registry() -> ToolRegistry:
    """The process's registry, where @Tool puts what it declares."""
    return _REGISTRY
