"""Which routes a path has: those without parameters by a look-up, the others by their patterns in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

from starlette.routing import compile_path

from toolpost.calls.errors import ConfigurationError
from toolpost.transports.http_routes import Route, SocketRoute

R = TypeVar("R", Route, SocketRoute)


class Paths(Generic[R]):
    """Routes by path, and of one path by method ("" for WebSockets)."""

    def __init__(self, routes: Sequence[R]) -> None:
        by_path: dict[str, dict[str, R]] = {}
        for route in routes:
            path: str = route.path
            method = route.method if isinstance(route, Route) else ""
            there = by_path.setdefault(path, {})
            if method in there:
                raise ConfigurationError(f"two routes answer {method} {route.path}")
            there[method] = route
        self._plain: dict[str, dict[str, R]] = {}
        self._patterns: list[tuple[Any, Any, Any, dict[str, R]]] = []
        for path, there in by_path.items():
            if "{" in path:
                self._patterns.append((*compile_path(path), there))
            else:
                self._plain[path] = there

    def find(self, path: str) -> tuple[Mapping[str, R] | None, dict[str, Any]]:
        """The routes of a path by their methods, None where there are none; and what stands for its parameters."""
        there = self._plain.get(path)
        if there is not None:
            return there, {}
        for pattern, _, convertors, those in self._patterns:
            found = pattern.fullmatch(path)
            if found is not None:
                return those, {name: convertors[name].convert(value) for name, value in found.groupdict().items()}
        return None, {}


__all__ = ["Paths"]
