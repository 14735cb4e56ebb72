"""The lock of an executor's tools: written, compared with what there is, and told in words for a review."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolpost.calls.definition import ToolDefinition
from toolpost.calls.errors import DefinitionDriftError
from toolpost.engine.registry import ToolRegistry
from toolpost.security.pins import Pins, face_of, locked, place_of
from toolpost.security.unseen import unseen_in, visible


@dataclass(slots=True, kw_only=True)
class LockReport:
    """What differs between tools and a lock. unknown and absent name tools as NAME@VERSION."""

    unknown: list[str] = field(default_factory=list)
    drifted: list[DefinitionDriftError] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)

    @property
    def fits(self) -> bool:
        """Whether every tool is as locked, and every locked tool is there."""
        return not (self.unknown or self.drifted or self.absent)

    def to_dict(self) -> dict[str, Any]:
        """JSON."""
        drifted = [error.details for error in self.drifted]
        return {"fits": self.fits, "drifted": drifted, "unknown": self.unknown, "absent": self.absent}

    def sentences(self) -> Iterator[str]:
        """One for each thing that differs, with its diff."""
        for error in self.drifted:
            yield f"{error.message}\n{error.details['diff']}"
        for place in self.unknown:
            yield f"{place} is not in the lock"
        for place in self.absent:
            yield f"{place} is in the lock, and there is no such tool"


def tools_of(registry: ToolRegistry) -> list[ToolDefinition]:
    """Every version of every tool, by name and version."""
    return [registry.get_tool(name, version) for name in registry.list_tools() for version in registry.versions(name)]


def lock_of(registry: ToolRegistry) -> str:
    """The lock of all tools of a registry, as text; the same in every process and on every machine."""
    return locked(tools_of(registry))


def compare(pins: Pins, registry: ToolRegistry) -> LockReport:
    """What differs between a registry's tools and a lock."""
    report, tools = LockReport(), tools_of(registry)
    for tool in tools:
        error = pins.drift(tool)
        if error is not None and error.details["why"] == "unknown":
            report.unknown.append(place_of(tool))
        elif error is not None:
            report.drifted.append(error)
    report.absent = pins.absent(tools)
    return report


def unseen_of(tools: Iterable[ToolDefinition]) -> list[str]:
    """A sentence for each character that no reviewer sees, in what models are told of tools."""
    return [f"{visible(place_of(tool))}: {said}" for tool in tools for said in unseen_in(face_of(tool))]


def write(text: str, path: Path) -> bool:
    """Write a lock in place of an earlier one, in one step; whether it changed. Raises OSError."""
    import contextlib
    import os
    import tempfile

    try:
        if path.read_text(encoding="utf-8") == text:
            return False
    except (FileNotFoundError, UnicodeDecodeError):
        pass
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with open(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
    return True


__all__ = ["LockReport", "compare", "lock_of", "tools_of", "unseen_of", "write"]
