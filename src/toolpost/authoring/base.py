"""BaseTool: a class whose public methods are operations, each one a tool of its own."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from pydantic import BaseModel, ValidationError

from toolpost.authoring import binding
from toolpost.authoring.decorators import (
    UNAPPLIED,
    Declared,
    declared,
    define_function,
    first_paragraph,
    raw,
    unbracketed,
)
from toolpost.authoring.schema import from_signature
from toolpost.calls.definition import Hints, ToolDefinition
from toolpost.calls.errors import ConfigurationError

SCOPING = ("user_id", "task_id")
"""Keyword arguments that say for whom and for which task a call is made; they scope the cache."""


class BaseTool:
    """Derive from it, and every public method is an operation that runs through the pipeline.

    A nested pydantic class XxxSchema gives the parameters of the operation xxx (ProcessDataSchema: process_data), or of
    the one operation whose name starts so (ProcessSchema: process_data); else the signature does.
    config holds the executor's settings (cache_size, timeout, ...), which give the tool an executor of its own, and the
    fields of a nested class Config, which stand in self.config. tool._executor may be set to another ToolExecutor.
    Operations are named ClassName.method for models; tool_name replaces the class's name.
    """

    tool_name: ClassVar[str | None] = None
    Config: ClassVar[type[BaseModel] | None] = None

    def __init__(self, config: Mapping[str, Any] | None = None, *, tool_name: str | None = None) -> None:
        if tool_name is not None:
            self.tool_name = tool_name  # type: ignore[misc]
        self._schemas: dict[str, type[BaseModel]] = {}
        self._async_methods: list[str] = []
        self.config: Any = self._configure(dict(config or {}))
        self._register_schemas()
        self._register_async_methods()

    # -- running ------------------------------------------------------------------------------------------------------

    def run(self, op: str, /, **kwargs: Any) -> Any:
        """Run an operation and return its value; blocks. Raises ToolExecutionError and its kinds.

        An async operation runs on a loop of its own thread; from inside a running event loop it is refused with a hint
        to await run_async.
        """
        return self._executor._run(self, op, kwargs)

    async def run_async(self, op: str, /, **kwargs: Any) -> Any:
        """Run an operation, sync or async, and return its value. Raises as run does."""
        return await self._executor._start(self, op, kwargs)

    async def run_batch(self, operations: Iterable[Mapping[str, Any]], **options: Any) -> list[Any]:
        """Run many operations, each {"op": name, "kwargs": {...}}; options are those of ToolExecutor.execute_batch."""
        return await self._executor.execute_batch(self, operations, **options)  # type: ignore[no-any-return]

    def close(self) -> None:
        """End the executor that the tool's settings gave it; without such settings there is nothing to end."""
        own = self.__dict__.get("_toolpost_own")
        if own is not None:
            own.close()

    # -- what the tool is ---------------------------------------------------------------------------------------------

    def operations(self) -> tuple[str, ...]:
        """The names of the operations."""
        return operations_of(type(self))

    def definitions(self) -> list[ToolDefinition]:
        """One definition an operation, with bodies bound to this instance."""
        return definitions_of(self)

    def get_schema_coverage(self) -> dict[str, Any]:
        """Which operations have a schema class and which take their parameters from the signature."""
        names = self.operations()
        explicit = sorted(set(self._schemas) | {n for n in names if declared(getattr(type(self), n)).schema})
        return {
            "operations": len(names),
            "with_schema": explicit,
            "from_signature": sorted(set(names) - set(explicit)),
            "coverage": len(explicit) / len(names) if names else 1.0,
        }

    def _register_schemas(self) -> None:
        """Find the nested schema classes and bind each to its operation; refuses one that binds to none or to two."""
        self._schemas = bind_schemas(type(self))

    def _register_async_methods(self) -> None:
        """Note which operations are async."""
        self._async_methods = [n for n in self.operations() if inspect.iscoroutinefunction(raw(getattr(self, n)))]

    def _sanitize_kwargs(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The arguments unchanged when nothing in them looks like an attack; raises SecurityError otherwise."""
        self._executor.screen_arguments(kwargs)
        return kwargs

    def _configure(self, config: dict[str, Any]) -> Any:
        keys = binding.engine().config_keys() if config else ()
        own_model = self.Config if isinstance(self.Config, type) and issubclass(self.Config, BaseModel) else None
        own_fields = set(own_model.model_fields) if own_model else set()
        unknown = [k for k in config if k not in keys and k not in own_fields]
        if unknown:
            near = difflib.get_close_matches(str(unknown[0]), [*keys, *own_fields], n=1, cutoff=0.5)
            raise ConfigurationError(
                f"{type(self).__name__}: setting {unknown[0]!r} is not known"
                + (f"; did you mean {near[0]!r}?" if near else "; settings of your own go into a nested class Config")
            )
        settings = {k: v for k, v in config.items() if k in keys and k not in own_fields}
        if settings:
            self._executor = self._toolpost_own = binding.engine().make_executor(settings)
        if own_model is None:
            return dict(config)
        try:
            return own_model(**{k: v for k, v in config.items() if k in own_fields})
        except ValidationError as exc:
            raise ConfigurationError(f"{type(self).__name__}: {exc}") from exc

    def __getattr__(self, name: str) -> Any:
        # Reached only for what is not there yet: a tool without an executor of its own uses the process's.
        if name == "_executor":
            return binding.engine().default_executor()
        if name == "_schemas":
            return bind_schemas(type(self))
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __copy__(self) -> BaseTool:
        """A tool of its own, with the same executor."""
        new = type(self).__new__(type(self))
        new.__dict__.update({k: v for k, v in self.__dict__.items() if not k.startswith("_toolpost_")})
        return new

    def __getstate__(self) -> dict[str, Any]:
        """For worker processes: everything but the executor and what was compiled for it."""
        return {k: v for k, v in self.__dict__.items() if k != "_executor" and not k.startswith("_toolpost_")}


def operations_of(cls: type) -> tuple[str, ...]:
    """The public methods a class adds to BaseTool (or object), in order of definition."""
    ignored = set(dir(BaseTool)) | set(dir(object))
    names: dict[str, None] = {}
    for base in reversed(cls.__mro__):
        for name, value in vars(base).items():
            if name.startswith("_") or name in ignored or base in (BaseTool, object):
                continue
            if inspect.isfunction(value):
                names[name] = None
            else:
                names.pop(name, None)
    if issubclass(cls, BaseTool):
        _check_reserved(cls)
    return tuple(names)


RESERVED = frozenset(
    {
        "run",
        "run_async",
        "run_batch",
        "operations",
        "definitions",
        "get_schema_coverage",
        "config",
        "tool_name",
        "close",
    }
)


def _check_reserved(cls: type) -> None:
    """Refuse a method that takes the place of one of BaseTool's own: it could never be an operation."""
    for base in cls.__mro__:
        if base is BaseTool:
            return
        for name in RESERVED & vars(base).keys():
            if inspect.isfunction(vars(base)[name]) and name != "close":
                raise ConfigurationError(
                    f"{cls.__name__}.{name}: BaseTool has {name!r} for itself; give the operation another name"
                )


def bind_schemas(cls: type) -> dict[str, type[BaseModel]]:
    """Operation -> nested schema class. Exact snake case first, then a unique prefix; anything else is refused."""
    operations = operations_of(cls)
    explicit = {name: declared(getattr(cls, name)).schema for name in operations}
    taken = {name for name, schema in explicit.items() if schema is not None}
    claimed = set(explicit.values())
    schemas = [
        (name, value)
        for name in dir(cls)
        if name.endswith("Schema") and name != "Schema"
        for value in [getattr(cls, name)]
        if isinstance(value, type) and issubclass(value, BaseModel) and value not in claimed
    ]
    bound: dict[str, type[BaseModel]] = {}
    rest: list[tuple[str, type[BaseModel]]] = []
    for name, schema in schemas:
        snake = snake_case(name.removesuffix("Schema"))
        flat = [op for op in operations if op == snake or op.replace("_", "") == snake.replace("_", "")]
        if len(flat) == 1 and flat[0] not in taken:
            bound[flat[0]] = schema
        else:
            rest.append((snake, schema))
    for snake, schema in rest:
        free = [op for op in operations if op.startswith(snake + "_") and op not in bound and op not in taken]
        if len(free) != 1:
            raise ConfigurationError(_binding_message(cls, schema, snake, free, operations))
        bound[free[0]] = schema
    return bound


def _binding_message(
    cls: type, schema: type[BaseModel], snake: str, free: Sequence[str], operations: Sequence[str]
) -> str:
    where = f"{cls.__name__}.{schema.__name__}"
    if free:
        names = " and ".join(repr(op) for op in free)
        first = camel_case(free[0])
        return (
            f"{where} fits {names}; name it {first}Schema for the first, or put @validate_input({schema.__name__}) "
            f"on the method it is for"
        )
    known = ", ".join(operations) or "none"
    return (
        f"{where} fits no operation (there is no method {snake!r} or {snake}_...; operations: {known}); rename it "
        f"after its method, or give it a name that does not end in Schema"
    )


def snake_case(name: str) -> str:
    """ProcessData -> process_data; HTTPFetch -> http_fetch."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def camel_case(name: str) -> str:
    """process_data -> ProcessData."""
    return "".join(part.capitalize() for part in name.split("_"))


def definitions_of(tool: Any) -> list[ToolDefinition]:
    """The definitions of an object's operations, made once an object; any object with public methods will do."""
    cls = type(tool)
    prefix = getattr(tool, "tool_name", None) or cls.__name__
    there = getattr(tool, "__dict__", {}).get("_toolpost_definitions")
    if there is not None and there[:2] == (id(tool), prefix):
        return list(there[2])
    schemas = getattr(tool, "_schemas", None)
    if not isinstance(schemas, dict):
        schemas = bind_schemas(cls)
    made = [_define_operation(tool, prefix, name, schemas.get(name)) for name in operations_of(cls)]
    if hasattr(tool, "__dict__"):
        tool.__dict__["_toolpost_definitions"] = (id(tool), prefix, made)
    return list(made)


def definition_of_private(tool: Any, name: str) -> ToolDefinition:
    """The definition of a decorated method that is no operation, as its name begins with an underscore."""
    made: dict[str, ToolDefinition] = getattr(tool, "__dict__", {}).setdefault("_toolpost_private", {})
    if name not in made:
        made[name] = _define_operation(tool, getattr(tool, "tool_name", None) or type(tool).__name__, name, None)
    return made[name]


def _define_operation(tool: Any, prefix: str, name: str, schema: type[BaseModel] | None) -> ToolDefinition:
    function = getattr(type(tool), name)
    if hasattr(function, UNAPPLIED):
        raise unbracketed(f"{type(tool).__name__}.{name}: ")
    record: Declared = declared(function)
    method = raw(function).__get__(tool, type(tool))
    model = record.schema or schema
    signature = inspect.signature(method).parameters
    hidden = frozenset(
        p
        for p in SCOPING
        if p in signature
        and (model is None or p not in model.model_fields)
        and signature[p].default is not inspect.Parameter.empty
    )
    return define_function(
        method,
        name=f"{prefix}.{name}",
        description=first_paragraph(inspect.getdoc(raw(function)) or inspect.getdoc(type(tool)) or ""),
        model=model,
        hidden=hidden,
        policies=record.policies(),
        version=str(getattr(tool, "version", "1.0.0")) if isinstance(getattr(tool, "version", None), str) else "1.0.0",
        operation=name,
        passes=frozenset(p for p in SCOPING if p in hidden),
        hints=record.hints or Hints(),
    )


__all__ = ["BaseTool", "bind_schemas", "definitions_of", "from_signature", "operations_of", "snake_case"]
