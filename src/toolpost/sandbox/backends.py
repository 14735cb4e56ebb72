"""Which back ends there are, and the first of them that holds to all that a profile requires."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import asdict
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, Final

from toolpost.calls.errors import ConfigurationError, PluginError, SandboxError
from toolpost.sandbox.backend import Backend, BackendFactory
from toolpost.sandbox.outcome import BackendReport, Missing
from toolpost.sandbox.profile import Sandbox

GROUP: Final = "toolpost.sandboxes"
"""Entry points of other packages: name -> BackendFactory."""
BUILT_IN: Final = {
    "native": "toolpost.sandbox.native:NativeBackend",
    "bubblewrap": "toolpost.sandbox.bubblewrap:BubblewrapBackend",
}
"""Our own, the better one first."""
AUTO: Final = "auto"


def choose(backend: str | BackendFactory, profile: Sandbox, root: Path, warm: int) -> Backend:
    """The back end of that name, or (auto) the first that holds to what the profile requires; it is not started.

    Raises SandboxError with what is missing and how to get it where there is none: a lesser one is never taken.
    Raises ConfigurationError for a name that nobody has.
    """
    reports = []
    for name, factory in _candidates(backend):
        found, report = _examined(name, factory, profile, root, warm)
        if found is not None and not report.lacks(profile.require):
            return found
        reports.append(report)
    raise refusal(profile, reports)


def reports_of(backend: str | BackendFactory, profile: Sandbox, root: Path) -> tuple[BackendReport, ...]:
    """What each back end that may be chosen can hold to here, in the order in which they are asked."""
    return tuple(_examined(name, factory, profile, root, 0)[1] for name, factory in _candidates(backend))


def refusal(profile: Sandbox, reports: list[BackendReport]) -> SandboxError:
    """The error that says what each back end lacks of what the profile requires, and the way out."""
    said, details = [], {}
    for report in reports:
        lacks = report.lacks(profile.require)
        by_way: dict[tuple[str, str], list[str]] = {}
        for control, missing in lacks.items():
            by_way.setdefault((missing.why, missing.way_out), []).append(control)
        parts = [
            f"{'everything' if len(controls) == len(profile.require) else ', '.join(controls)} ({why}; {way_out})"
            for (why, way_out), controls in by_way.items()
        ]
        said.append(f"{report.backend} lacks {'; '.join(parts)}")
        details[report.backend] = {str(control): asdict(missing) for control, missing in lacks.items()}
    error = SandboxError(
        f"nothing here can hold to what the sandbox requires, so the program was not run: {'. '.join(said)}",
        details={"missing": details},
    )
    error.outcome = "not_run"
    return error


def _candidates(backend: str | BackendFactory) -> Iterator[tuple[str, str | BackendFactory | metadata.EntryPoint]]:
    """Name and factory, or where it is: what comes later is not even loaded where an earlier one is taken."""
    if not isinstance(backend, str):
        yield str(getattr(backend, "name", None) or getattr(backend, "__name__", type(backend).__name__)), backend
        return
    if backend == AUTO:
        yield from BUILT_IN.items()
        for point in sorted(metadata.entry_points(group=GROUP), key=lambda point: point.name):
            yield point.name, point
        return
    if backend in BUILT_IN:
        yield backend, BUILT_IN[backend]
        return
    points = [point for point in metadata.entry_points(group=GROUP) if point.name == backend]
    if not points:
        known = sorted({AUTO, *BUILT_IN, *(point.name for point in metadata.entry_points(group=GROUP))})
        near = difflib.get_close_matches(backend, known, n=1)
        way_out = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
        raise ConfigurationError(f"there is no sandbox back end {backend!r}; {way_out}")
    if len({point.value for point in points}) > 1:
        raise ConfigurationError(f"several packages have a sandbox back end {backend!r}; remove all but one")
    yield backend, points[0]


def _examined(
    name: str, factory: str | BackendFactory | metadata.EntryPoint, profile: Sandbox, root: Path, warm: int
) -> tuple[Backend | None, BackendReport]:
    """A back end and what it can hold to; one that cannot be made or asked holds to nothing."""
    try:
        made = _loaded(name, factory)(profile, root, warm)
        return made, made.report()
    except ConfigurationError:
        raise
    except Exception as raised:
        why = f"it cannot be asked: {type(raised).__name__}: {raised}"
        missing = dict.fromkeys(profile.require, Missing(why, "take another back end"))
        return None, BackendReport(backend=name, missing=missing)


def _loaded(name: str, factory: str | BackendFactory | metadata.EntryPoint) -> BackendFactory:
    if isinstance(factory, str):
        module, _, attribute = factory.partition(":")
        found: Any = getattr(import_module(module), attribute)
    elif isinstance(factory, metadata.EntryPoint):
        try:
            found = factory.load()
        except SystemExit as raised:
            raise PluginError(f"sandbox back end {name!r} ended the interpreter when it was loaded") from raised
    else:
        found = factory
    if not callable(found):
        raise PluginError(f"sandbox back end {name!r} must be callable as (profile, root, warm), got {found!r:.100}")
    made: BackendFactory = found
    return made
