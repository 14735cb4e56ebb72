"""Finds tools in what stands for them: an object, a class, or a reference such as "module:attribute"."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

from toolpost.authoring.base import BaseTool, definitions_of
from toolpost.calls.definition import ToolDefinition
from toolpost.calls.errors import ConfigurationError, PluginError

GROUP = "toolpost.tools"


def definitions_in(tool: Any) -> list[ToolDefinition]:
    """The definitions of anything that is a tool, or stands for some."""
    if isinstance(tool, ToolDefinition):
        return [tool]
    if isinstance(tool, str):
        return definitions_in(load_attribute(tool))
    definition = getattr(tool, "tool_definition", None)
    if isinstance(definition, ToolDefinition):
        return [definition]
    if isinstance(tool, type) and issubclass(tool, BaseTool):
        return definitions_of(tool())
    if isinstance(tool, BaseTool):
        return definitions_of(tool)
    if isinstance(tool, (list, tuple, set, frozenset, Iterator)):
        return [definition for item in tool for definition in definitions_in(item)]
    name = getattr(tool, "__qualname__", type(tool).__name__)
    hint = "put @Tool() on it" if callable(tool) else "give a BaseTool, a function with @Tool, or a ToolDefinition"
    raise ConfigurationError(f"{name} is not a tool; {hint}")


def load_attribute(reference: str) -> Any:
    """The object named by a reference; the attribute may be dotted.

    A file is imported as a script's neighbours are: the folder above its package goes onto sys.path. Without a
    colon the reference names an entry point of the group toolpost.tools. Raises ConfigurationError for a
    reference that is none of these, PluginError when loading fails.
    """
    source, colon, attribute = reference.rpartition(":")
    if not colon:
        if reference.endswith(".py"):
            raise ConfigurationError(f"{reference!r} names no attribute; write {reference}:attribute")
        return _entry_point(reference)
    if not source or not attribute:
        raise ConfigurationError(f"{reference!r} is no reference; write module:attribute")
    found: Any = _file(source) if source.endswith(".py") else _module(source, f"module {source!r}")
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            what = "file" if source.endswith(".py") else "module"
            names = [name for name in dir(found) if not name.startswith("_")]
            raise PluginError(f"{what} {source!r} has no {attribute!r}{_nearest(part, names)}") from None
    return found


def _module(name: str, shown: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as exc:
        raise PluginError(f"{shown} could not be loaded: {type(exc).__name__}: {exc}") from exc


def _file(source: str) -> ModuleType:
    """The module of a file, under the name by which others import it, or one of its own where that is taken."""
    path = Path(source).expanduser()
    if not path.is_file():
        raise ConfigurationError(f"there is no file {source!r}; write path/to/file.py:attribute")
    path = path.resolve()
    folder, name = path.parent, path.stem
    while (folder / "__init__.py").is_file():
        folder, name = folder.parent, f"{folder.name}.{name}"
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    if all(part.isidentifier() for part in name.split(".")) and _is_at(name, path):
        return _module(name, f"file {source!r}")
    return _alone(path, source)


def _is_at(name: str, path: Path) -> bool:
    """Whether importing the name gives that file."""
    try:
        loaded = sys.modules.get(name)
        spec = getattr(loaded, "__spec__", None) if loaded is not None else importlib.util.find_spec(name)
        return spec is not None and spec.origin is not None and os.path.samefile(spec.origin, path)
    except (ImportError, OSError, ValueError):
        return False


def _alone(path: Path, source: str) -> ModuleType:
    name = f"{path.stem}_{hashlib.sha256(os.fsencode(path)).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise PluginError(f"file {source!r} could not be loaded: it is no Python source")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as exc:
        del sys.modules[name]
        raise PluginError(f"file {source!r} could not be loaded: {type(exc).__name__}: {exc}") from exc
    return module


def _entry_point(name: str) -> Any:
    points = {point.name: point for point in metadata.entry_points(group=GROUP)}
    if name not in points:
        known = ", ".join(sorted(points)) or "none is installed"
        raise ConfigurationError(
            f"{name!r} is neither module:attribute, path/to/file.py:attribute nor an entry point of {GROUP} "
            f"({known}){_nearest(name, points)}"
        )
    try:
        return points[name].load()
    except (Exception, SystemExit) as exc:
        raise PluginError(f"plugin {name!r} could not be loaded: {type(exc).__name__}: {exc}") from exc


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
