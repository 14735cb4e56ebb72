"""Decorators that declare: they write policy on a function and change nothing else, so their order has no meaning.

A decorated method or function, called directly, takes the same pipeline as through any door.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar, overload

from pydantic import BaseModel

from toolpost.authoring import binding
from toolpost.authoring.schema import (
    ReturnsCheck,
    SchemaCheck,
    annotations_of,
    context_parameter,
    from_model,
    from_signature,
    returns_of,
)
from toolpost.calls.access import Access
from toolpost.calls.approval import Approval
from toolpost.calls.definition import FunctionBody, Hints, ToolDefinition
from toolpost.calls.egress import Egress
from toolpost.calls.errors import ConfigurationError
from toolpost.calls.oauth import OAuth
from toolpost.calls.policies import (
    UNSET,
    Breaker,
    BreakerPolicy,
    Cache,
    Concurrency,
    Exclusive,
    Idempotency,
    Policies,
    RateLimit,
    Retry,
    RetryPolicy,
    RunsIn,
    Screening,
    Timeout,
    Unset,
    UsageCalculator,
)

F = TypeVar("F", bound=Callable[..., Any])
DECLARED = "__toolpost_declared__"
RAW = "__toolpost_raw__"
UNAPPLIED = "__toolpost_unapplied__"
TOOL = "__toolpost_tool__"
POLICY_FIELDS = frozenset(f.name for f in fields(Policies)) - {"runs_in", "measured"}


class Declared:
    """What decorators said of one function, in any order. chosen: field of Policies -> value."""

    __slots__ = ("awaits_in_loop", "chosen", "hints", "measured", "runs_in", "schema")

    def __init__(self) -> None:
        self.schema: type[BaseModel] | None = None
        self.chosen: dict[str, Any] = {}
        self.hints: Hints | None = None
        self.runs_in: RunsIn = "auto"
        self.awaits_in_loop = False
        self.measured = False

    def policies(self) -> Policies:
        """As policies."""
        return Policies(**self.chosen, runs_in=self.runs_in, measured=True)


def declared(func: Any) -> Declared:
    """What was declared of func; an empty Declared when nothing was."""
    found = getattr(func, DECLARED, None)
    return found if isinstance(found, Declared) else Declared()


def raw(func: Any) -> Callable[..., Any]:
    """The function the author wrote, without what decorators put around it."""
    return getattr(func, RAW, func)  # type: ignore[no-any-return]


def declare(func: F, decorator: str, **what: Any) -> F:
    """Write policy on func, wrapping it on the first time so that a direct call takes the pipeline."""
    if not inspect.isroutine(func) or isinstance(func, (staticmethod, classmethod)):
        raise ConfigurationError(
            f"@{decorator} goes on a function or method, got {type(func).__name__}; put it below @property, "
            f"@staticmethod or @classmethod, or leave those out"
        )
    wrapped = func if hasattr(func, DECLARED) else _through_pipeline(func)
    record: Declared = getattr(wrapped, DECLARED)
    for name, value in what.items():
        if name in POLICY_FIELDS:
            record.chosen[name] = value
        else:
            setattr(record, name, value)
    tool = getattr(wrapped, TOOL, None)
    if isinstance(tool, Tool):  # @Tool stands below this decorator: what it declared is declared anew
        tool.take(wrapped, replace=True)
    return wrapped  # type: ignore[return-value]


def _through_pipeline(func: Callable[..., Any]) -> Callable[..., Any]:
    """A function of func's name and signature whose calls go through the executor of the tool they are made on."""
    record = Declared()
    wrapper: Callable[..., Any]

    if inspect.iscoroutinefunction(func):

        @functools.wraps(func)
        async def awaits(*args: Any, **kwargs: Any) -> Any:
            return await binding.call_direct(wrapper, record, args, kwargs)

        wrapper = awaits
    else:

        @functools.wraps(func)
        def blocks(*args: Any, **kwargs: Any) -> Any:
            return binding.call_direct(wrapper, record, args, kwargs)

        wrapper = blocks

    setattr(wrapper, DECLARED, record)
    setattr(wrapper, RAW, func)
    return wrapper


def validate_input(schema_class: type[BaseModel]) -> Callable[[F], F]:
    """Check arguments with a pydantic model. Raises InputValidationError at the call.

    A mistake in its use (no model given) is a ConfigurationError where the function is declared.
    """
    if not (isinstance(schema_class, type) and issubclass(schema_class, BaseModel)):
        raise ConfigurationError(
            f"@validate_input takes a pydantic model class, as @validate_input(ReadSchema); got {schema_class!r}"
        )
    return lambda func: declare(func, "validate_input", schema=schema_class)


def cache_result(
    ttl: float | Callable[[Any, Mapping[str, Any]], float | None] | None = None, *, per: str = "task"
) -> Callable[[F], F]:
    """Keep results for ttl seconds (None: the executor's cache_ttl; a callable: seconds from result and arguments).

    per says who shares them: "task" (user and task, as documented), "user", "tenant" or "global".
    """
    if inspect.isroutine(ttl) and not inspect.isbuiltin(ttl) and len(inspect.signature(ttl).parameters) != 2:
        raise unbracketed("")
    policy = Cache(ttl_s=ttl, per=per)  # type: ignore[arg-type]

    def mark(*given: Any, **named: Any) -> Any:
        if len(given) != 1 or named:
            raise unbracketed("")  # called as the function it stands for
        return declare(given[0], "cache_result", cache=policy)

    setattr(mark, UNAPPLIED, True)
    return mark


def unbracketed(where: str) -> ConfigurationError:
    """The error for @cache_result put straight on a function of two parameters, which looks like a ttl callable."""
    return ConfigurationError(
        f"{where}@cache_result needs its brackets: write @cache_result() or @cache_result(ttl=60)"
    )


@overload
def run_in_executor(func: F) -> F: ...
@overload
def run_in_executor(*, process: bool = False) -> Callable[[F], F]: ...
def run_in_executor(func: F | None = None, *, process: bool = False) -> F | Callable[[F], F]:
    """Run a sync function in a worker thread, or (process=True) in a worker process that can be killed.

    Called directly with no event loop running it blocks and returns the value; inside a running loop it returns an
    awaitable.
    """

    def mark(target: F) -> F:
        if inspect.iscoroutinefunction(target):
            name = getattr(target, "__qualname__", target)
            raise ConfigurationError(
                f"@run_in_executor is for sync functions; {name} is async and runs in the loop as it is"
            )
        return declare(target, "run_in_executor", runs_in="process" if process else "thread", awaits_in_loop=True)

    return mark if func is None else mark(func)


@overload
def measure_execution_time(func: F) -> F: ...
@overload
def measure_execution_time() -> Callable[[F], F]: ...
def measure_execution_time(func: F | None = None) -> F | Callable[[F], F]:
    """Ask for the call's time to be logged at INFO. Every call is measured in any case: see get_metrics()."""
    return measure_execution_time if func is None else declare(func, "measure_execution_time", measured=True)


@overload
def sanitize_input(func: F) -> F: ...
@overload
def sanitize_input() -> Callable[[F], F]: ...
def sanitize_input(func: F | None = None) -> F | Callable[[F], F]:
    """Screen every text argument as one that ends up in SQL, HTML, a path or a shell. Raises SecurityError."""
    return sanitize_input if func is None else declare(func, "sanitize_input", screening=Screening(untrusted=True))


# -- @Tool ------------------------------------------------------------------------------------------------------------

_POLICY_HINTS = {
    "retries": "retry=Retry(attempts=...)",
    "idempotent": "hints=Hints(idempotent=True) or idempotency=Idempotency()",
    "circuit_breaker": "breaker=Breaker()",
    "timeout": "timeout_seconds=",
    "timeout_s": "timeout_seconds=",
    "ttl": "cache=Cache(ttl_s=...)",
    "schema": "parameters=",
    "input_schema": "parameters=",
}


class Tool:
    """Declares a function as a tool and registers it: `@Tool(name=..., description=..., parameters=...)`.

    parameters maps names to JSON Schema fragments (required unless a default, `required: False` or `optional: True` is
    there), or is a whole object schema, or is left out and read from the signature. The function stays callable and
    carries its definition as `.tool_definition`. A result that is not an object is given as {"result": ...}.
    register=False leaves the registry alone; replace=True takes the place of an earlier tool of the name.
    """

    def __init__(
        self,
        name: str | None = None,
        description: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        requires_auth: bool = False,
        timeout_seconds: float | Unset | None = UNSET,
        version: str = "1.0.0",
        *,
        returns: Mapping[str, Any] | None = None,
        cache: Cache | Unset | None = UNSET,
        rate_limit: RateLimit | tuple[RateLimit, ...] | Unset | None = UNSET,
        screening: Screening | Unset | None = UNSET,
        access: Access | Unset | None = UNSET,
        egress: Egress | Unset | None = UNSET,
        approval: Approval | Unset | None = UNSET,
        oauth: OAuth | Unset | None = UNSET,
        concurrency: Concurrency | tuple[Concurrency, ...] | Unset | None = UNSET,
        exclusive: Exclusive | Unset | None = UNSET,
        idempotency: Idempotency | Unset | None = UNSET,
        breaker: Breaker | BreakerPolicy | Unset | None = UNSET,
        retry: Retry | RetryPolicy | Unset | None = UNSET,
        invalidates: tuple[str, ...] | list[str] = (),
        usage: UsageCalculator | None = None,
        runs_in: RunsIn = "auto",
        permissions: tuple[str, ...] | list[str] = (),
        tags: tuple[str, ...] | list[str] = (),
        examples: tuple[Any, ...] | list[Any] = (),
        hints: Hints | None = None,
        owner: str | None = None,
        deprecated: str | None = None,
        replace: bool = False,
        register: bool = True,
        **unknown: Any,
    ) -> None:
        for option in unknown:
            near = _POLICY_HINTS.get(option) or binding.nearest_option(option, Tool.__init__)
            raise ConfigurationError(
                f"@Tool: option {option!r} is not known" + (f"; did you mean {near}?" if near else "")
            )
        if callable(name):
            raise ConfigurationError('@Tool needs its brackets: write @Tool() or @Tool(name="MyApp.Calculator")')
        if not isinstance(requires_auth, bool):
            raise ConfigurationError(f"@Tool: requires_auth must be True or False, got {requires_auth!r}")
        if runs_in not in ("auto", "inline", "thread", "process"):
            raise ConfigurationError(f"@Tool: runs_in must be 'auto', 'inline', 'thread' or 'process', got {runs_in!r}")
        self.name, self.description, self.parameters, self.version = name, description, parameters, version
        self.requires_auth, self.returns, self.runs_in = requires_auth, returns, runs_in
        self.timeout: Timeout | Unset | None
        if isinstance(timeout_seconds, Unset):
            self.timeout = UNSET
        else:
            self.timeout = None if timeout_seconds is None else Timeout(total_s=timeout_seconds)
        self.policies: dict[str, Any] = {
            "cache": cache,
            "rate_limit": rate_limit,
            "screening": screening,
            "access": access,
            "egress": egress,
            "approval": approval,
            "oauth": oauth,
            "concurrency": concurrency,
            "exclusive": exclusive,
            "idempotency": idempotency,
            "breaker": breaker,
            "retry": retry,
        }
        if invalidates:
            self.policies["invalidates"] = invalidates if isinstance(invalidates, str) else tuple(invalidates)
        if usage is not None:
            self.policies["usage"] = usage
        Policies(**self.policies)  # which checks them
        self.permissions, self.tags, self.examples = tuple(permissions), tuple(tags), tuple(examples)
        self.hints, self.owner, self.deprecated = hints, owner, deprecated
        self.replace, self.register = replace, register

    def __call__(self, func: F) -> F:
        if not callable(func) or isinstance(func, type):
            raise ConfigurationError(f"@Tool goes on a function, got {func!r}; for a class derive from BaseTool")
        self.take(func, replace=self.replace)
        return func

    def take(self, func: Callable[..., Any], *, replace: bool) -> None:
        """Hang the definition of func on it, and register it."""
        definition = self.define(func)
        try:
            vars(func).update({"tool_definition": definition, TOOL: self})
        except TypeError:
            raise ConfigurationError(f"@Tool cannot hold on to {func!r}; wrap it in a function of your own") from None
        if self.register:
            binding.register(definition, replace)

    def define(self, func: Callable[..., Any]) -> ToolDefinition:
        """The definition of func, not registered."""
        record, function = declared(func), raw(func)
        name = self.name or getattr(function, "__name__", None)
        if not name:
            raise ConfigurationError(f"@Tool: a {type(function).__name__} has no name of its own; give name=")
        return define_function(
            function,
            name=name,
            description=self.description,
            parameters=self.parameters,
            model=record.schema,
            policies=self._over(record.policies()),
            version=self.version,
            returns=self.returns,
            requires_auth=self.requires_auth,
            permissions=self.permissions,
            tags=self.tags,
            examples=self.examples,
            hints=self.hints or record.hints or Hints(),
            owner=self.owner,
            deprecated=self.deprecated,
            wrap_result=True,
        )

    def _over(self, declared: Policies) -> Policies:
        """What @Tool says, over what other decorators said, which other tools of the function may share."""
        chosen = {key: value for key, value in self.policies.items() if value is not UNSET}
        if self.runs_in != "auto":
            chosen["runs_in"] = self.runs_in
        if self.timeout is not UNSET:
            chosen["timeout"] = self.timeout
            if isinstance(self.timeout, Timeout) and isinstance(declared.timeout, Timeout):
                chosen["timeout"] = replace(declared.timeout, total_s=self.timeout.total_s)
        return replace(declared, **chosen)


def define_function(
    func: Callable[..., Any],
    *,
    name: str,
    description: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    model: type[BaseModel] | None = None,
    hidden: frozenset[str] = frozenset(),
    returns: Mapping[str, Any] | None = None,
    **more: Any,
) -> ToolDefinition:
    """The definition of one Python callable, whichever style it was written in.

    hidden names parameters that the engine fills itself. The context parameter is hidden of its own.
    """
    context = context_parameter(func)
    skip = hidden | ({context} if context else frozenset())
    check: Any
    if parameters is not None:
        from toolpost.authoring.jsonschema import parameters_schema

        schema: Mapping[str, Any] = parameters_schema(parameters)
        check = SchemaCheck(schema, name=f"parameters of {name}")
        _compare(func, name, tuple(schema.get("properties", {})), check.optional, skip)
    elif model is not None:
        schema, check = from_model(model)
        names = tuple(f for f in model.model_fields)
        _compare(func, name, names, frozenset(names) - frozenset(_required(model)), skip)
    else:
        schema, check = from_signature(func, skip=skip)
    returns = returns if returns is not None else returns_of(func)
    doc = inspect.getdoc(func) or ""
    return ToolDefinition(
        name=name,
        description=description if description is not None else first_paragraph(doc),
        parameters=schema,
        check=check,
        body=FunctionBody(
            func=func,
            is_async=_is_async(func),
            context=context,
            leaf=check.scalar and not _is_async(func) and binding.is_leaf(func),
        ),
        returns=returns,
        output_check=ReturnsCheck(returns) if returns is not None else None,
        source=f"{func.__module__}:{getattr(func, '__qualname__', '')}",
        identity=identity_of(func),
        **more,
    )


def identity_of(func: Callable[..., Any]) -> str | None:
    """What tells a function apart in every process: "" where its code alone does, None where nothing can.

    A closure, a lambda within a function and an object with state of its own mean something else in each process. The
    class of an object can give one: cache_identity = "a text that says all that its results hang on".
    """
    owner = getattr(func, "__self__", None)
    if owner is not None and not inspect.ismodule(owner):
        said = getattr(owner, "cache_identity", None)
        if said is not None:
            return str(said)
        own = {k for k, v in getattr(owner, "__dict__", {"?": 0}).items() if not (k == "config" and not v)}
        if {k for k in own if not k.startswith("_toolpost_")} - {"_schemas", "_async_methods", "_executor"}:
            return None
        func = getattr(func, "__func__", func)
    if getattr(func, "__closure__", None) or "<locals>" in getattr(func, "__qualname__", "<locals>"):
        return None
    return ""


def _required(model: type[BaseModel]) -> list[str]:
    return [name for name, info in model.model_fields.items() if info.is_required()]


def _is_async(func: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(func) or inspect.iscoroutinefunction(getattr(func, "__call__", None))  # noqa: B004


def _compare(
    func: Callable[..., Any], tool: str, names: tuple[str, ...], optional: frozenset[str], skip: frozenset[str]
) -> None:
    """Refuse a schema that names what the function cannot take, or leaves out what it needs."""
    parameters = inspect.signature(func).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    where = getattr(func, "__qualname__", tool)
    for name in names:
        if name not in parameters and not takes_any and name not in ("user_id", "task_id"):
            raise ConfigurationError(
                f"{tool}: the schema has {name!r}, which {where}() does not take; add it or drop it"
            )
    for parameter in parameters.values():
        if parameter.name in skip or parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        if parameter.default is parameter.empty and parameter.name not in names:
            raise ConfigurationError(
                f"{tool}: {where}() needs {parameter.name!r}, which the schema lacks; add it or give it a default"
            )


def first_paragraph(doc: str) -> str:
    """The first paragraph of a docstring, on one line."""
    return re.sub(r"\s+", " ", doc.strip().split("\n\n")[0]).strip()


__all__ = [
    "Tool",
    "annotations_of",
    "cache_result",
    "declare",
    "declared",
    "define_function",
    "measure_execution_time",
    "raw",
    "run_in_executor",
    "sanitize_input",
    "validate_input",
]
