"""Fills a schema's defaults into values, by a plan made once for each schema."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from toolpost.authoring.documents import MAX_STEPS, Documents
from toolpost.authoring.subschemas import Node

__all__ = ["Defaults"]


class _Absent:
    """The type of _ABSENT: a property without a default."""


_ABSENT: Final = _Absent()


class Defaults:
    """The defaults below one subschema: a plan made once, so that a call only walks where defaults are."""

    __slots__ = ("_below", "_containers", "_declared", "_first", "_items", "_others", "_same", "_scalars")

    def __init__(self) -> None:
        self._scalars: dict[str, Any] = {}
        self._containers: dict[str, Any] = {}
        self._declared: frozenset[str] = frozenset()
        self._below: dict[str, Defaults] = {}
        self._others: Defaults | None = None
        self._first: list[Defaults] = []
        self._items: Defaults | None = None
        self._same: list[Defaults] = []

    @classmethod
    def of(cls, documents: Documents) -> Defaults | None:
        """The plan for a schema, None when no default could ever be filled in."""
        plans: dict[int, Defaults] = {}
        todo: list[tuple[Node, Defaults]] = []

        def plan(node: Node) -> Defaults:
            if id(node.schema) not in plans:
                plans[id(node.schema)] = cls()
                todo.append((node, plans[id(node.schema)]))
            return plans[id(node.schema)]

        root = plan(documents.root)
        while todo:
            node, made = todo.pop()
            if isinstance(node.schema, dict):
                made._read(node.entered(), documents, plan)
        useful = _useful(plans.values())
        for made in plans.values():
            made._prune(useful)
        return root if root in useful else None

    def fill(self, value: Any, room: int, filling: frozenset[int] = frozenset()) -> Any:
        """value with defaults, copied where it differs; filling are the plans whose default is being filled in."""
        if room <= 0:
            return value
        for same in self._same:
            value = same.fill(value, room, filling)
        if isinstance(value, dict):
            return self._fill_object(value, room, filling)
        if isinstance(value, (list, tuple)) and (self._items is not None or self._first):
            return self._fill_array(value, room, filling)
        return value

    def _fill_object(self, value: dict[str, Any], room: int, filling: frozenset[int]) -> dict[str, Any]:
        full = dict(value)
        for name, below in self._below.items():
            if name in full:
                full[name] = below.fill(full[name], room - 1, filling)
        if self._others is not None:
            for name in full.keys() - self._declared:
                full[name] = self._others.fill(full[name], room - 1, filling)
        for name, default in self._scalars.items():
            full.setdefault(name, default)
        for name, default in self._containers.items():
            if name not in full:
                full[name] = self._fresh(name, default, room, filling)
        return full

    def _fill_array(self, value: Sequence[Any], room: int, filling: frozenset[int]) -> list[Any]:
        full = list(value)
        for index, item in enumerate(full):
            plan = self._first[index] if index < len(self._first) else self._items
            if plan is not None:
                full[index] = plan.fill(item, room - 1, filling)
        return full

    def _fresh(self, name: str, default: Any, room: int, filling: frozenset[int]) -> Any:
        """A copy of a default, with the defaults below it; one that would need itself is left as it stands."""
        fresh = copy.deepcopy(default)
        below = self._below.get(name)
        if below is None or id(below) in filling:
            return fresh
        return below.fill(fresh, room - 1, filling | {id(below)})

    def _read(self, node: Node, documents: Documents, plan: Callable[[Node], Defaults]) -> None:
        schema = node.schema
        for _, text in node.references():
            target = documents.resolve(node, text)
            if target is not None:
                self._same.append(plan(target))
        if node.hides_siblings():
            return

        def below(child: Any) -> Defaults:
            return plan(node._replace(schema=child))

        self._same += [below(child) for child in schema.get("allOf", ())]
        for name, child in schema.get("properties", {}).items():
            self._below[name] = below(child)
            default = _default_of(node._replace(schema=child), documents)
            if default is not _ABSENT:
                (self._containers if isinstance(default, (dict, list)) else self._scalars)[name] = default
        self._declared = frozenset(self._below)
        if isinstance(schema.get("additionalProperties"), dict) and "patternProperties" not in schema:
            self._others = below(schema["additionalProperties"])
        items = schema.get("items")
        self._first = [below(child) for child in (items if isinstance(items, list) else schema.get("prefixItems", ()))]
        if isinstance(items, dict):
            self._items = below(items)

    def _next(self) -> Iterator[Defaults]:
        yield from (plan for plan in (*self._below.values(), self._others, self._items) if plan is not None)
        yield from self._first
        yield from self._same

    def _prune(self, useful: set[Defaults]) -> None:
        self._below = {name: plan for name, plan in self._below.items() if plan in useful}
        self._others = self._others if self._others in useful else None
        self._items = self._items if self._items in useful else None
        self._same = [plan for plan in self._same if plan in useful]
        if useful.isdisjoint(self._first):
            self._first = []


def _useful(plans: Any) -> set[Defaults]:
    """The plans with a default in or below them."""
    users: dict[Defaults, list[Defaults]] = {plan: [] for plan in plans}
    for plan in users:
        for other in plan._next():
            users[other].append(plan)
    useful: set[Defaults] = set()
    todo = [plan for plan in users if plan._scalars or plan._containers]
    while todo:
        plan = todo.pop()
        if plan not in useful:
            useful.add(plan)
            todo.extend(users[plan])
    return useful


def _default_of(node: Node, documents: Documents) -> Any:
    """The default of a property: its own, or that of what it refers to."""
    here: Node | None = node
    for _ in range(MAX_STEPS):
        if here is None or not isinstance(here.schema, dict):
            return _ABSENT
        if "default" in here.schema:
            return here.schema["default"]
        here = here.entered()
        here = documents.resolve(here, here.schema["$ref"]) if isinstance(here.schema.get("$ref"), str) else None
    return _ABSENT
