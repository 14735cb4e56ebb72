"""Screening rules of other packages: in force only when the setting `rules` names them."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Final

from toolpost.calls.errors import ConfigurationError, PluginError
from toolpost.security.rules import Rule

GROUP: Final = "toolpost.rules"
"""Entry points of other packages: name -> a rule, (value, role) -> why it is refused, or None."""


def rules_named(names: Sequence[str]) -> tuple[Rule, ...]:
    """The rules of these names; what one finds is called plugin.NAME.

    Raises ConfigurationError for a name that nobody, or more than one package, has, PluginError for what is no rule or
    cannot be loaded.
    """
    return tuple(_rule(name) for name in dict.fromkeys(names))


def _rule(name: str) -> Rule:
    points = [point for point in metadata.entry_points(group=GROUP) if point.name == name]
    if not points:
        known = sorted({point.name for point in metadata.entry_points(group=GROUP)})
        near = difflib.get_close_matches(name, known, n=1)
        way_out = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known) or 'none installed'}"
        raise ConfigurationError(f"rules names {name!r}, which is no entry point of {GROUP}; {way_out}")
    if len({point.value for point in points}) > 1:
        owners = ", ".join(sorted(point.dist.name if point.dist is not None else point.value for point in points))
        raise ConfigurationError(f"rules names {name!r}, which several packages have: {owners}; remove all but one")
    try:
        found = points[0].load()
    except (Exception, SystemExit) as raised:
        raise PluginError(f"rule {name!r} could not be loaded ({type(raised).__name__}: {raised})") from raised
    if not callable(found):
        raise PluginError(f"rule {name!r} must be a function (value, role), got {found!r:.100}")
    return _called(name, found)


def _called(name: str, rule: Callable[[str, str], str | None]) -> Rule:
    def named(value: str, role: str) -> str | None:
        return rule(value, role)

    named.__name__ = name
    return named
