"""Which documents and references a schema has, and how far they lead: every chain ends, and nothing is ever fetched."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import unquote

from toolpost.authoring import problems as wording
from toolpost.authoring.problems import Loc
from toolpost.authoring.showing import show
from toolpost.authoring.subschemas import (
    DEFINITIONS,
    REFERENCES,
    Node,
    Step,
    at_place,
    document_of,
    draft_of,
    joined,
    subschemas,
    subschemas_here,
)
from toolpost.calls.errors import SchemaError

__all__ = ["MAX_CHECKS", "MAX_STEPS", "Documents"]

MAX_STEPS: Final = 100
"""How many references and combinators may follow each other at one place of a value; most schemas need under ten.

Measured with jsonschema-rs 0.60.3: making a validator takes up to 8 KB of stack a step (unevaluatedProperties over
anyOf), wording an error up to 1.5 KB.
"""

MAX_CHECKS: Final = 1_000_000
"""How many subschemas one place of a value may have to be held against; repeated references multiply."""

_GO_ROUND_AGAIN: Final = ("unevaluatedProperties", "unevaluatedItems")  # they hold the value against the others again

_Way = tuple[Any, Step] | None
"""How the survey came to a subschema: the way to the one before and a step from there; None for the schema itself."""


def _spelled(way: _Way) -> Loc:
    steps: list[Step] = []
    while way is not None:
        way, step = way
        steps.append(step)
    return tuple(part for step in reversed(steps) for part in step)


class Documents:
    """A schema and its resources: resolves references, and measures how far they lead."""

    def __init__(self, schema: Any, resources: Mapping[str, Any], name: str) -> None:
        self._name = name
        self._by_uri: dict[str, Node] = {}
        self._waiting = {document_of(uri): document for uri, document in resources.items()}
        self._draft = draft_of(schema, 2020)
        self.root = Node(schema, "", self._draft, "")
        self._reached: set[str] = set()
        self.own_dialect = False
        self._index("", schema)

    def resolve(self, node: Node, reference: str) -> Node | None:
        """The subschema that a reference in node names; None when there is none in these documents."""
        uri, _, fragment = joined(node.base, reference).partition("#")
        if uri not in self._by_uri and uri in self._waiting:
            self._index(uri, self._waiting.pop(uri))
        while uri not in self._by_uri and self._waiting:  # it may be the $id of a subschema of any of them
            self._index(*self._waiting.popitem())
        if fragment and not fragment.startswith("/"):
            return self._by_uri.get(f"{uri}#{unquote(fragment)}")
        start = self._by_uri.get(uri)
        return start if start is None or not fragment else _walked(start, fragment)

    def names(self, node: Node) -> list[str]:
        """The property names declared at node and in the subschemas and references at its place."""
        found: dict[str, None] = {}
        seen: set[int] = set()
        todo = [node]
        while todo:
            here = todo.pop().entered()
            if not isinstance(here.schema, dict) or id(here.schema) in seen:
                continue
            seen.add(id(here.schema))
            if isinstance(here.schema.get("properties"), dict):
                found.update(dict.fromkeys(here.schema["properties"]))
            todo.extend(self._here(here))
        return list(found)

    def at(self, way: Sequence[str | int]) -> Node | None:
        """The subschema that a keyword path from the root leads to, through references; None when it is lost."""
        here: Node | None = self.root
        for step in way:
            if here is None:
                return None
            here = here.entered()
            if step in REFERENCES and isinstance(here.schema, dict):
                here = self.resolve(here, str(here.schema.get(step)))
            else:
                here = _stepped(here, step)
        return here

    def survey(self) -> int:
        """How many steps follow each other at one place of a value, at most, 1 or more.

        Raises SchemaError for a reference that leads nowhere, one that leads back to its own place, and for more than
        MAX_STEPS or MAX_CHECKS.
        """
        here: dict[int, list[int]] = {}
        rounds: dict[int, int] = {}
        where: dict[int, _Way] = {}
        todo: list[tuple[Node, _Way]] = [(self.root, None)]
        while todo:
            node, way = todo.pop()
            if not isinstance(node.schema, dict) or id(node.schema) in here:
                continue
            node = node.entered()
            where[id(node.schema)] = way
            rounds[id(node.schema)] = 1 + sum(keyword in node.schema for keyword in _GO_ROUND_AGAIN)
            self._reached.add(node.document)
            self.own_dialect |= "json-schema.org" not in str(node.schema.get("$schema", "json-schema.org"))
            targets = [(self._target(node, keyword, text, way), (keyword,)) for keyword, text in node.references()]
            same_place = [] if node.hides_siblings() else [child for _, child in subschemas_here(node.schema)]
            same_place += [target.schema for target, _ in targets if target is not None]
            here[id(node.schema)] = [id(child) for child in same_place if isinstance(child, dict)]
            todo.extend((target, (way, step)) for target, step in targets if target is not None)
            children = subschemas(node.schema)
            todo.extend((node._replace(schema=child), (way, step)) for step, child in reversed(list(children)))
        return self._measured(here, where, rounds)

    def used(self, resources: Mapping[str, Any]) -> dict[str, Any]:
        """The resources that the survey came by; all of them when a meta-schema may be among them.

        The library refuses a set of resources when any has a reference that leads nowhere, needed or not.
        """
        return {uri: r for uri, r in resources.items() if self.own_dialect or document_of(uri) in self._reached}

    def _here(self, node: Node) -> Iterator[Node]:
        for _, text in node.references():
            target = self.resolve(node, text)
            if target is not None:
                yield target
        if not node.hides_siblings():
            yield from (node._replace(schema=child) for _, child in subschemas_here(node.schema))

    def _target(self, node: Node, keyword: str, text: str, way: _Way) -> Node | None:
        if keyword == "$recursiveRef":
            text = "#"
        target = self.resolve(node, text)
        uri = document_of(joined(node.base, text))
        if target is not None or "//json-schema.org/draft" in uri:  # the library knows the meta-schemas itself
            return target
        raise SchemaError(f"{self._name}: {at_place((*_spelled(way), keyword))} {self._leads_nowhere(text, uri)}")

    def _leads_nowhere(self, text: str, uri: str) -> str:
        shown = show(text, limit=200)
        if uri not in self._by_uri:
            return f"{shown} names another document, which is never fetched; pass it in resources={{{uri!r}: …}}"
        document = self._by_uri[uri].schema
        sections = [s for s in DEFINITIONS if isinstance(document, dict) and isinstance(document.get(s), dict)]
        known = [f"#/{section}/{name}" for section in sections for name in document[section]]
        near = wording.nearest(text, known)
        return f"{shown} leads nowhere{f'; did you mean {show(near)}?' if near else ''}"

    def _measured(self, here: dict[int, list[int]], where: dict[int, _Way], rounds: dict[int, int]) -> int:
        """The longest way through the subschemas of one place, by peeling off those that lead no further."""
        users: dict[int, list[int]] = {node: [] for node in here}
        for node, targets in here.items():
            for target in targets:
                users[target].append(node)
        open_ends = {node: len(targets) for node, targets in here.items()}
        steps = dict.fromkeys(here, 1)
        checks = dict.fromkeys(here, 1)
        ready = deque(node for node, count in open_ends.items() if count == 0)
        while ready:
            node = ready.popleft()
            del open_ends[node]
            if steps[node] > MAX_STEPS or checks[node] > MAX_CHECKS:
                raise SchemaError(f"{self._name}: {_too_far(_spelled(where[node]), steps[node])}")
            for user in users[node]:
                steps[user] = max(steps[user], steps[node] + 1)
                checks[user] += checks[node] * rounds[user]
                open_ends[user] -= 1
                if open_ends[user] == 0:
                    ready.append(user)
        if open_ends:
            node, seen = next(iter(open_ends)), set[int]()
            while node not in seen:  # each has another of them before it, so this ends in the circle
                seen.add(node)
                node = next(target for target in here[node] if target in open_ends)
            at = at_place(_spelled(where[node]))
            says = "the schema leads back to itself without going down into the value, so it would never end"
            raise SchemaError(f"{self._name}: {at} {says}")
        return max(steps.values(), default=1)

    def _index(self, uri: str, document: Any) -> None:
        """Note every URI by which a subschema of document may be named."""
        todo = [Node(document, uri, self._draft, uri)]
        self._by_uri[uri] = todo[0]
        while todo:
            outside = todo.pop()
            if not isinstance(outside.schema, dict):
                continue
            node = outside.entered()
            if node.base != outside.base:
                self._by_uri.setdefault(node.base, outside)
            for name in _anchors(node):
                self._by_uri.setdefault(f"{node.base}#{name}", outside)
            todo.extend(node._replace(schema=child) for _, child in subschemas(node.schema))


def _anchors(node: Node) -> Iterator[str]:
    if node.draft >= 2019:
        yield from (node.schema[k] for k in ("$anchor", "$dynamicAnchor") if isinstance(node.schema.get(k), str))
    elif not node.hides_siblings():
        identity = node.schema.get("id" if node.draft == 4 else "$id")
        if isinstance(identity, str) and identity.partition("#")[2]:
            yield identity.partition("#")[2]


def _walked(start: Node, fragment: str) -> Node | None:
    here: Node | None = start
    for piece in unquote(fragment).split("/")[1:]:
        if here is None:
            return None
        here = _stepped(here.entered(), piece.replace("~1", "/").replace("~0", "~"))
    return here


def _stepped(node: Node, step: str | int) -> Node | None:
    schema = node.schema
    if isinstance(schema, dict) and str(step) in schema:
        return node._replace(schema=schema[str(step)])
    if isinstance(schema, list) and str(step).isdecimal() and int(step) < len(schema):
        return node._replace(schema=schema[int(step)])
    return None


def _too_far(loc: Loc, steps: int) -> str:
    if steps > MAX_STEPS:
        return f"{at_place(loc)} more than {MAX_STEPS} references and combinators follow each other; shorten the chain"
    return f"{at_place(loc)} a value would be held against more than {MAX_CHECKS} subschemas; repeat fewer references"
