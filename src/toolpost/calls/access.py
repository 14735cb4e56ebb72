"""Access: who may make a tool's calls, and with which arguments; a policy that authorize acts on.

Decision and PolicyEngine are what engines of one's own answer with and look like.
"""

from __future__ import annotations

import difflib
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from toolpost.calls.errors import ConfigurationError

if TYPE_CHECKING:
    from toolpost.calls.call import Caller
    from toolpost.calls.definition import ToolDefinition

REFERENCE: Final = "$caller"
"""{"$caller": "user_id"} in a condition stands for what the caller has there."""

CALLER_FIELDS: Final = ("user_id", "tenant", "session_id", "scopes", "roles")
_LISTS: Final = ("scopes", "roles")
_NAMES: Final = ("scopes", "any_scopes", "roles", "tenants", "users")

SUBSCHEMA: Final = frozenset({"items", "contains", "additionalProperties", "propertyNames", "not"})
SUBSCHEMAS: Final = frozenset({"allOf", "anyOf", "prefixItems"})
NAMED_SUBSCHEMAS: Final = frozenset({"properties", "patternProperties"})
_NUMBERS: Final = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
_TEXTS: Final = ("minLength", "maxLength", "pattern", "format")
_ARRAYS: Final = ("items", "prefixItems", "contains", "minContains", "minItems", "maxItems", "uniqueItems")
_OBJECTS: Final = (
    *("properties", "patternProperties", "additionalProperties", "propertyNames"),
    *("required", "dependentRequired", "minProperties", "maxProperties"),
)
KIND_OF: Final[Mapping[str, str]] = (
    dict.fromkeys(_NUMBERS, "number")
    | dict.fromkeys(_TEXTS, "string")
    | dict.fromkeys(_ARRAYS, "array")
    | dict.fromkeys(_OBJECTS, "object")
)
"""Keyword -> the JSON type that it says something about."""

KEYWORDS: Final = frozenset(KIND_OF) | SUBSCHEMAS | {"type", "const", "enum", "not", "title", "description"}
"""The keywords of JSON Schema that conditions may use.

References are not among them, as nothing is fetched, nor oneOf and maxContains: a value that fits more than is meant,
such as a text where a number is bounded, would fit them less, and the other way round.
"""

_DEEPEST: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Who may call a tool, and with which arguments. Everything that is given must hold.

    requires_user: a known user. scopes: all of them; any_scopes, roles, tenants, users: one of each. Names are compared
    as they stand: no scope, role or tenant implies another, and "*" is a name like any other.

    where maps parameters to JSON Schema that the argument must fit; {"$caller": "user_id"} in a const or an enum stands
    for what the caller has there (user_id, tenant, session_id, scopes, roles), and is never met by a caller that has
    nothing there. A parameter that is named must be there, and a keyword about numbers (texts, lists, objects) is met
    by numbers (texts, ...) alone, unless a type beside it says otherwise.
    when (caller, arguments) agrees with True; False, None or a text, the reason, refuses. It may be async.
    any_of: one of these must hold besides.
    name is what refusals and explanations call the rule.
    """

    requires_user: bool = False
    scopes: tuple[str, ...] | None = None
    any_scopes: tuple[str, ...] | None = None
    roles: tuple[str, ...] | None = None
    tenants: tuple[str, ...] | None = None
    users: tuple[str, ...] | None = None
    where: Mapping[str, Any] | None = None
    when: Callable[[Caller, Mapping[str, Any]], Any] | None = None
    any_of: tuple[Access, ...] | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.requires_user, bool):
            raise ConfigurationError(f"Access: requires_user must be True or False, got {self.requires_user!r}")
        if self.name is not None and not (isinstance(self.name, str) and self.name):
            raise ConfigurationError(f"Access: name must be text that is not empty, got {self.name!r}")
        for field in _NAMES:
            self._check_names(field)
        if self.when is not None and not callable(self.when):
            raise ConfigurationError(f"Access: when must be callable as (caller, arguments), got {self.when!r}")
        if self.where is not None:
            object.__setattr__(self, "where", _checked(self.where))
        if self.any_of is not None:
            if not isinstance(self.any_of, (tuple, list)) or not all(isinstance(one, Access) for one in self.any_of):
                raise ConfigurationError(f"Access: any_of must be a tuple of Access, got {self.any_of!r:.100}")
            self._not_empty("any_of", self.any_of)
            object.__setattr__(self, "any_of", tuple(self.any_of))
        asked = (*(getattr(self, field) for field in _NAMES), self.where, self.when, self.any_of)
        if not self.requires_user and all(one is None for one in asked):
            raise ConfigurationError(
                "Access asks for nothing, so everybody may call; say scopes, roles, tenants, users, where or when, or "
                "switch it off with access=None"
            )

    def _check_names(self, field: str) -> None:
        names = getattr(self, field)
        if names is None:
            return
        if isinstance(names, str) or not isinstance(names, (tuple, list, set, frozenset)):
            raise ConfigurationError(f"Access: {field} must be a tuple of names such as ('name',), got {names!r:.100}")
        if not all(isinstance(name, str) and name for name in names):
            raise ConfigurationError(f"Access: {field} must hold names that are text, got {names!r:.100}")
        if field in ("scopes", "any_scopes") and any(len(name.split()) != 1 for name in names):
            raise ConfigurationError(
                f"Access: a scope has no spaces; write each as a name of its own, got {names!r:.100}"
            )
        self._not_empty(field, names)
        object.__setattr__(self, field, tuple(names if isinstance(names, (tuple, list)) else sorted(names)))

    @staticmethod
    def _not_empty(field: str, names: Any) -> None:
        if not names:
            raise ConfigurationError(f"Access: {field} is empty, which nobody could meet; leave it out, or name some")

    def to_dict(self) -> dict[str, Any]:
        """What is asked, as JSON; a when is told by its name."""
        told: dict[str, Any] = {}
        for field in self.__slots__:
            value = getattr(self, field)
            if value is None or value is False:
                continue
            if field == "any_of":
                value = [one.to_dict() for one in value]
            elif field == "when":
                value = getattr(value, "__qualname__", type(value).__qualname__)
            elif field == "where":
                value = deepcopy(dict(value))
            told[field] = list(value) if isinstance(value, tuple) else value
        return told

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> Access:
        """What to_dict tells, for specs that are data. A when is code, and stays out."""
        if not isinstance(told, Mapping):
            raise ConfigurationError(f"access must be an Access or a mapping of its fields, got {told!r:.100}")
        known = [field for field in cls.__slots__ if field != "when"]
        for field in told:
            if field not in known:
                raise ConfigurationError(f"Access: {field!r} is not known{_hint(str(field), known)}")
        given = dict(told)
        if "any_of" in given and isinstance(given["any_of"], Sequence):
            given["any_of"] = tuple(cls.from_dict(one) for one in given["any_of"])
        return cls(**given)

    def parts(self) -> Iterator[Access]:
        """This and all that any_of holds, at any depth."""
        yield self
        for one in self.any_of or ():
            yield from one.parts()


def parts_of(access: object) -> Iterator[Access]:
    """The parts of an Access; none of what stands for its absence."""
    return access.parts() if isinstance(access, Access) else iter(())


class Decision(NamedTuple):
    """What a policy engine says of a call. rule names what decided; reason is told to the caller when refused."""

    allow: bool
    rule: str = ""
    reason: str = ""


class PolicyEngine(Protocol):
    """Decides calls by rules that are kept elsewhere; it may be sync, and then must not wait, or async.

    An engine that raises refuses the call, and so does one that gives no Decision. One that also has
    may_list(tool, caller) -> bool (or an awaitable of one) says which tools a caller is shown: those that it could call
    with some arguments. name, if it has one, is how it is called in refusals.
    """

    def decide(
        self, tool: ToolDefinition, caller: Caller, arguments: Mapping[str, Any], /
    ) -> Decision | Awaitable[Decision]: ...


def _checked(where: Any) -> dict[str, Any]:
    """A copy of a where that can be compiled. Raises ConfigurationError naming the place and the fix."""
    if not isinstance(where, Mapping) or not all(isinstance(name, str) for name in where):
        raise ConfigurationError(f"Access: where must map parameters to JSON Schema, got {where!r:.100}")
    if not where:
        raise ConfigurationError("Access: where is empty; leave it out, or name parameters in it")
    copied: dict[str, Any] = deepcopy(dict(where))
    for name, schema in copied.items():
        _check_schema(schema, f"where[{name!r}]", 0)
        check_compiles("Access", _standing_in(schema), f"where[{name!r}]")
    return copied


def _check_schema(schema: Any, at: str, depth: int) -> None:
    if isinstance(schema, bool):
        return
    if not isinstance(schema, dict):
        raise ConfigurationError(f"Access: {at} must be JSON Schema such as {{'maximum': 100}}, got {schema!r:.100}")
    if depth > _DEEPEST:
        raise ConfigurationError(f"Access: {at} is nested more than {_DEEPEST} levels deep")
    for keyword, value in schema.items():
        place = f"{at}[{keyword!r}]"
        if keyword == REFERENCE:
            raise ConfigurationError(
                f"Access: {at} is {schema!r:.100}, which is no schema; write {{'const': {{'$caller': 'user_id'}}}}"
            )
        if keyword not in KEYWORDS:
            raise ConfigurationError(
                f"Access: {place} is no keyword that conditions may use{_hint(str(keyword), sorted(KEYWORDS))}"
            )
        if keyword in ("const", "enum"):
            _check_references(value, place, keyword)
        elif keyword in SUBSCHEMA:
            _check_schema(value, place, depth + 1)
        elif keyword in SUBSCHEMAS and isinstance(value, list):
            for index, one in enumerate(value):
                _check_schema(one, f"{place}[{index}]", depth + 1)
        elif keyword in NAMED_SUBSCHEMAS and isinstance(value, dict):
            for name, one in value.items():
                _check_schema(one, f"{place}[{name!r}]", depth + 1)
        elif keyword == "type" and value == []:
            raise ConfigurationError(f"Access: {place} is empty; name a type")


def _check_references(value: Any, at: str, keyword: str) -> None:
    if isinstance(value, dict) and REFERENCE in value:
        field = value[REFERENCE]
        if len(value) != 1 or field not in CALLER_FIELDS:
            raise ConfigurationError(
                f"Access: {at} refers to {field!r:.60} of the caller{_hint(str(field), CALLER_FIELDS)}"
            )
        if (keyword == "enum") != (field in _LISTS):
            fits = "enum" if field in _LISTS else "const"
            raise ConfigurationError(f"Access: {at}: {field} of the caller goes into {fits}, not into {keyword}")
    elif isinstance(value, list):
        for index, one in enumerate(value):
            _check_references(one, f"{at}[{index}]", "member")
    elif isinstance(value, dict):
        for name, one in value.items():
            _check_references(one, f"{at}[{name!r}]", "member")


def check_compiles(owner: str, schema: Any, at: str) -> None:
    """Refuse what is no JSON Schema, a format that nobody knows, and a pattern that needs backtracking."""
    import jsonschema_rs

    try:
        jsonschema_rs.Draft202012Validator(
            schema,
            pattern_options=jsonschema_rs.RegexOptions(),
            validate_formats=True,
            ignore_unknown_formats=False,  # anything would be of such a format
            offline=True,
        )
    except (jsonschema_rs.ValidationError, ValueError, TypeError) as wrong:
        said = getattr(wrong, "message", str(wrong)).splitlines()[0]
        raise ConfigurationError(f"{owner}: {at} is no JSON Schema: {said:.200}") from None


def _standing_in(schema: Any) -> Any:
    """The schema with something in the place of each reference, to see whether the rest is one."""
    if isinstance(schema, dict):
        if REFERENCE in schema:
            return ["x"] if schema[REFERENCE] in _LISTS else "x"
        return {name: _standing_in(one) for name, one in schema.items()}
    return [_standing_in(one) for one in schema] if isinstance(schema, list) else schema


def _hint(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(known)}"


__all__ = ["Access", "Decision", "PolicyEngine"]
