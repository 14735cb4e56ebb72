"""Which files of the engine's own environment belong to the distributions that a profile lets programs import."""

from __future__ import annotations

import re
import sys
from importlib import metadata
from pathlib import Path

from toolpost.calls.errors import ConfigurationError
from toolpost.sandbox.profile import PACKAGES

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def mounts_of(packages: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Pairs of source and target for the named distributions and what they depend on.

    Raises ConfigurationError, which names it, where one is not installed.
    """
    found: dict[str, str] = {}
    for distribution in _with_dependencies(packages):
        base = Path(str(distribution.locate_file("")))
        for entry in _entries(distribution):
            source = base / entry
            if source.exists():
                found.setdefault(f"{PACKAGES}/{entry}", str(source.resolve()))
    return tuple((source, target) for target, source in found.items())


def _with_dependencies(packages: tuple[str, ...]) -> list[metadata.Distribution]:
    out: dict[str, metadata.Distribution] = {}
    waiting = [(name, "") for name in packages]
    while waiting:
        name, needed_by = waiting.pop()
        key = re.sub(r"[-_.]+", "-", name).lower()
        if key in out:
            continue
        try:
            distribution = metadata.distribution(name)
        except (metadata.PackageNotFoundError, ValueError):
            if needed_by:  # an optional one, or of another platform; an import says what is missing
                continue
            raise ConfigurationError(
                f"Sandbox.packages: {name!r} is not installed in the environment of {sys.executable}; install it there"
            ) from None
        if '"editable": true' in (distribution.read_text("direct_url.json") or ""):
            raise ConfigurationError(f"Sandbox.packages: {name!r} is installed as editable; install it as a wheel")
        out[key] = distribution
        for requirement in distribution.requires or ():
            match = _NAME.match(requirement)
            if match is not None and "extra ==" not in requirement:
                waiting.append((match[0], name))
    return list(out.values())


def _entries(distribution: metadata.Distribution) -> list[str]:
    """Its top-level names: packages, modules, libraries beside them (*.libs) and its metadata."""
    if distribution.files is None:  # of a system's packager, which lists its files elsewhere
        names = set((distribution.read_text("top_level.txt") or "").split())
        base = Path(str(distribution.locate_file("")))
        return sorted({top for name in names for top in (name, f"{name}.py") if (base / top).exists()})
    tops = {file.parts[0] for file in distribution.files or () if file.parts}
    return sorted(top for top in tops if top not in ("..", "__pycache__") and not top.startswith("/"))
