"""ToolDefinition: what every way of writing a tool becomes; nothing below authoring knows how it was written."""

from __future__ import annotations

import difflib
import hashlib
import itertools
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol

import orjson

from toolpost.calls.access import parts_of as access_parts
from toolpost.calls.errors import ConfigurationError, OutputValidationError
from toolpost.calls.policies import Policies, given

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,127}\Z")
"""A tool's name: 1 to 128 letters, digits, '_', '-', '.', as MCP allows (2026-07-28, tool names)."""


class Check(Protocol):
    """Turns arguments into what the body is called with, or says what is wrong.

    convert is the fast path and may raise anything. mend then gets the same arguments: it converts what only looked
    wrong, or raises InputValidationError. optional holds the parameters that may be absent. scalar says that only
    numbers and booleans can pass, and that anything else, however large, is refused without being walked.
    """

    optional: frozenset[str]
    scalar: bool

    @property
    def convert(self) -> Callable[[dict[str, Any]], dict[str, Any]]: ...

    def mend(self, arguments: dict[str, Any], raised: Exception, /) -> dict[str, Any]: ...


class OutputCheck(Protocol):
    """Checks a JSON result against the declared schema."""

    def explain(self, value: Any, /) -> OutputValidationError | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionBody:
    """A Python callable. It takes keyword arguments, or (takes_mapping) the arguments as one dict.

    context names the parameter that receives the ToolContext. leaf is true when the code can neither loop nor call,
    so that it cannot outlive a deadline.
    """

    func: Callable[..., Any]
    is_async: bool = False
    takes_mapping: bool = False
    context: str | None = None
    leaf: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpBody:
    """A request to send: method and url template, headers, query and body by parameter name.

    All but method and path may hold credentials, so that repr leaves it out.
    """

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, Any] = field(default_factory=dict)
    body: Any = None

    def __repr__(self) -> str:
        return f"HttpBody(method={self.method!r}, url={self.url.partition('?')[0]!r}, ...)"


@dataclass(frozen=True, slots=True, kw_only=True)
class DbBody:
    """A database operation: the driver and how to reach it."""

    driver: str
    settings: Mapping[str, Any] = field(default_factory=dict)


Body = FunctionBody | HttpBody | DbBody


@dataclass(frozen=True, slots=True, kw_only=True)
class Hints:
    """What a tool says of itself, with MCP's meanings and defaults. None means not said.

    task: whether calls become tasks, which clients that know them follow and fetch the results of. optional: those of
    such clients; required: others are refused; after_input: those that bring answers to what the body asked; never.
    Not said: once calls have turned out to take long.
    """

    title: str | None = None
    read_only: bool | None = None
    destructive: bool | None = None
    idempotent: bool | None = None
    open_world: bool | None = None
    task: Literal["never", "optional", "required", "after_input"] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class ToolDefinition:
    """One tool, complete: its face for models, how arguments are checked, what runs and under which policies.

    parameters and returns are JSON Schema 2020-12; parameters describes an object.
    wrap_result puts a result that is not an object under the key "result", as @Tool promises.
    serial tells definitions of one process apart: two closures or two instances have equal code and other meanings.
    identity says, with name, version and digest, what a call means in every process; None where only serial can, so
    that results cannot be shared between processes. spec is the spec it was made from, if any.
    """

    name: str
    parameters: Mapping[str, Any]
    check: Check
    body: Body
    description: str = ""
    version: str = "1.0.0"
    returns: Mapping[str, Any] | None = None
    output_check: OutputCheck | None = None
    policies: Policies = field(default_factory=Policies)
    hints: Hints = field(default_factory=Hints)
    tags: tuple[str, ...] = ()
    permissions: tuple[str, ...] = ()
    requires_auth: bool = False
    examples: tuple[Any, ...] = ()
    owner: str | None = None
    deprecated: str | None = None
    metrics_tags: Mapping[str, str] = field(default_factory=dict)
    operation: str | None = None
    wrap_result: bool = False
    passes: frozenset[str] = frozenset()
    source: str = ""
    identity: str | None = None
    spec: Any = field(default=None, repr=False)
    created_at: float = field(default_factory=time.time)
    serial: int = field(default_factory=itertools.count(1).__next__, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not NAME.match(self.name):
            raise ConfigurationError(
                f"tool name {self.name!r:.140} must be 1 to 128 letters, digits, '_', '-' or '.', "
                f"and not begin with '-' or '.'"
            )
        if not isinstance(self.version, str) or not self.version or "@" in self.version:
            raise ConfigurationError(f"{self.name}: version must be text such as '1.0.0', got {self.version!r}")
        self._check_policies()

    def _check_policies(self) -> None:
        """Refuse a policy that names a parameter which the tool does not have: it could never hold."""
        if self.parameters.get("additionalProperties", True) is not False:
            return
        idempotency, exclusive = given(self.policies.idempotency), given(self.policies.exclusive)
        named = [("Idempotency.key_fields", name) for name in (idempotency.key_fields if idempotency else None) or ()]
        if exclusive is not None and isinstance(exclusive.by, str):
            named.append(("Exclusive.by", exclusive.by))
        for access in access_parts(self.policies.access):
            named += [("Access.where", name) for name in access.where or ()]
        known = list(self.parameters.get("properties", {}))
        for where, name in named:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                way_out = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known) or 'none'}"
                raise ConfigurationError(f"{self.name}: {where} names {name!r}, which is no parameter; {way_out}")

    @property
    def input_schema(self) -> Mapping[str, Any]:
        """parameters under the name that models' vendors use."""
        return self.parameters

    @property
    def function(self) -> Callable[..., Any] | None:
        """The Python callable, for tools that have one."""
        return self.body.func if isinstance(self.body, FunctionBody) else None

    @property
    def timeout_seconds(self) -> float | None:
        """The tool's own total deadline; None when the executor's holds."""
        timeout = given(self.policies.timeout)
        return timeout.total_s if timeout else None

    @cached_property
    def digest(self) -> str:
        """A digest of all that decides what a call means: name, version, schemas, and the body's code."""
        body = self.body
        what: list[Any] = [self.name, self.version, self.parameters, self.returns]
        if isinstance(body, FunctionBody):
            func: Any = getattr(body.func, "__func__", body.func)
            code = getattr(func, "__code__", None)
            what.append([f"{func.__module__}:{getattr(func, '__qualname__', '')}", _code_digest(code)])
        elif isinstance(body, HttpBody):
            what.append([body.method, body.url, body.headers, body.query, body.body])
        else:
            what.append(repr(body))
        text = orjson.dumps(what, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS, default=repr)
        return hashlib.sha256(text).hexdigest()

    @cached_property
    def body_digest(self) -> str:
        """A digest of what the body does, under whatever name its module was imported: the code, or what is sent."""
        body = self.body
        if isinstance(body, FunctionBody):
            func: Any = getattr(body.func, "__func__", body.func)
            what: Any = _code_digest(getattr(func, "__code__", None))
        elif isinstance(body, HttpBody):
            what = [body.method, body.url, body.headers, body.query, body.body]
        else:
            what = repr(body)
        text = orjson.dumps(what, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS, default=repr)
        return hashlib.sha256(text).hexdigest()


def _code_digest(code: Any) -> str:
    if code is None:
        return ""
    parts = [code.co_code, repr(code.co_names).encode(), repr(code.co_varnames).encode()]
    for const in code.co_consts:
        if hasattr(const, "co_code"):
            parts.append(_code_digest(const).encode())
        else:
            parts.append(repr(sorted(const, key=repr) if isinstance(const, frozenset) else const).encode())
    return hashlib.sha256(b"\0".join(parts)).hexdigest()
