"""Finds tools by reference: "module:attribute", and distributions' entry points that were asked for by name."""

from __future__ import annotations

import importlib
from importlib import metadata
from typing import Any

from toolpost.calls.errors import ConfigurationError, PluginError

GROUP = "toolpost.tools"


def load_attribute(reference: str) -> Any:
    """The object named by "module:attribute", or by the name of an entry point of the group toolpost.tools.

    Raises ConfigurationError for a reference that is neither, PluginError when loading fails.
    """
    module_name, colon, attribute = reference.partition(":")
    if not colon:
        return _entry_point(reference)
    if not module_name or not attribute:
        raise ConfigurationError(f"{reference!r} is no reference; write module:attribute")
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as exc:
        raise PluginError(f"module {module_name!r} could not be loaded: {type(exc).__name__}: {exc}") from exc
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise PluginError(f"module {module_name!r} has no {attribute!r}") from None
    return found


def _entry_point(name: str) -> Any:
    points = {point.name: point for point in metadata.entry_points(group=GROUP)}
    if name not in points:
        known = ", ".join(sorted(points)) or "none is installed"
        raise ConfigurationError(f"{name!r} is neither module:attribute nor an entry point of {GROUP} ({known})")
    try:
        return points[name].load()
    except Exception as exc:
        raise PluginError(f"plugin {name!r} could not be loaded: {type(exc).__name__}: {exc}") from exc
