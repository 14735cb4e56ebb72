"""Turns a signature, a pydantic model or a JSON Schema into one compiled check of arguments."""

from __future__ import annotations

import inspect
import re
import typing
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NotRequired, Required

from pydantic import BaseModel, ConfigDict, PydanticUndefinedAnnotation, PydanticUserError, TypeAdapter
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema, PydanticJsonSchemaWarning
from pydantic_core import SchemaValidator, ValidationError
from typing_extensions import TypedDict

from toolpost.calls.context import ToolContext
from toolpost.calls.errors import ConfigurationError, InputValidationError, OutputValidationError

_TypedDict: Any = TypedDict
STRICT_TYPES = frozenset({"int", "float", "bool", "str"})
UNTOUCHED = frozenset(
    {"metadata", "default", "default_factory", "cls", "config", "expected", "serialization", "function", "keys_schema"}
    | {"custom_error_context", "members", "discriminator", "ref", "schema_ref", "computed_fields"}
)


class _PlainJsonSchema(GenerateJsonSchema):
    """JSON Schema without the titles pydantic makes up from names: they only cost tokens."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


class TypedCheck:
    """Checks arguments with pydantic-core and hands on typed values; numbers and booleans are never coerced from text.

    A float without a fraction is taken for an integer, as JSON Schema has it; that and every error are the slow path.
    """

    __slots__ = ("_finish", "_lenient", "_names", "convert", "optional", "scalar")

    def __init__(
        self,
        core_schema: Any,
        names: Sequence[str],
        optional: frozenset[str],
        finish: Callable[[Any], dict[str, Any]] | None = None,
        scalar: bool = False,
    ) -> None:
        self._names = tuple(names)
        self.optional = optional
        self.scalar = scalar
        fast = SchemaValidator(_tightened(core_schema, lenient=False), _use_prebuilt=False).validate_python
        self._lenient = SchemaValidator(_tightened(core_schema, lenient=True), _use_prebuilt=False).validate_python
        self._finish = finish
        self.convert: Callable[[dict[str, Any]], dict[str, Any]] = fast
        if finish is not None:
            self.convert = lambda arguments: finish(fast(arguments))

    def mend(self, arguments: dict[str, Any], raised: Exception) -> dict[str, Any]:
        """Arguments with whole floats taken for integers; raises InputValidationError for what does not fit even so."""
        try:
            values = self._lenient(arguments)
            return values if self._finish is None else self._finish(values)
        except ValidationError as exc:
            from toolpost.authoring.pydantic_errors import from_pydantic

            raise InputValidationError(problems=from_pydantic(exc, self._names, arguments=arguments)) from None
        except Exception as exc:
            raise InputValidationError(f"Parameter validation failed: {type(exc).__name__}: {exc}") from exc


class SchemaCheck:
    """Checks arguments against a JSON Schema, fills defaults and turns 3.0 into 3 where an integer is asked for."""

    __slots__ = ("_coercions", "_integers", "_names", "_schema", "optional", "scalar")

    def __init__(
        self,
        schema: Mapping[str, Any],
        *,
        coercions: Mapping[str, Callable[[Any], Any]] | None = None,
        assert_formats: bool = True,
        name: str = "parameters",
    ) -> None:
        from toolpost.authoring.jsonschema import JsonSchema  # only tools that have a schema pay for its engine

        self._schema = JsonSchema(schema, assert_formats=assert_formats, name=name)
        properties: Mapping[str, Any] = schema.get("properties", {})
        self._names = tuple(properties)
        self._coercions = dict(coercions or {})
        self.scalar = False
        self._integers = tuple(
            name for name, part in properties.items() if isinstance(part, Mapping) and part.get("type") == "integer"
        )
        self.optional = frozenset(self._names) - frozenset(schema.get("required", ()))

    def convert(self, arguments: dict[str, Any], /) -> dict[str, Any]:
        """Arguments as the body takes them; raises ValueError when they do not fit."""
        if self._coercions:
            arguments = {k: self._coercions[k](v) if k in self._coercions else v for k, v in arguments.items()}
        if not self._schema.is_valid(arguments):
            raise ValueError("arguments do not fit")
        full = self._schema.with_defaults(arguments)
        for name in self._integers:
            if full.get(name).__class__ is float:
                full = {**full, name: int(full[name])}
        return full

    def mend(self, arguments: dict[str, Any], raised: Exception) -> dict[str, Any]:
        """Raises InputValidationError saying what does not fit."""
        args = dict(arguments)
        for name, coerce in self._coercions.items():
            if name in args:
                args[name] = coerce(args[name])
        problems = self._schema.problems(args, known=self._names)
        if problems:
            raise InputValidationError(problems=problems) from None
        raise InputValidationError(f"Parameter validation failed: {type(raised).__name__}: {raised}") from raised


class ReturnsCheck:
    """Checks a JSON result against a JSON Schema."""

    __slots__ = ("_schema",)

    def __init__(self, schema: Mapping[str, Any]) -> None:
        from toolpost.authoring.jsonschema import JsonSchema

        self._schema = JsonSchema(schema, name="returns")

    def explain(self, value: Any) -> OutputValidationError | None:
        """None when value fits, else the error."""
        if self._schema.is_valid(value):
            return None
        problems = self._schema.problems(value)
        text = "; ".join(p["msg"] for p in problems) or "it does not fit"
        details = {"errors": [{k: v for k, v in p.items() if k != "loc"} for p in problems]}
        return OutputValidationError(f"the result does not fit the declared schema: {text}", details=details)


def from_model(model: type[BaseModel]) -> tuple[dict[str, Any], TypedCheck]:
    """The JSON Schema and the check of a pydantic model. Unknown arguments are refused unless the model allows extras.

    Nested models stay models.
    """
    core = _forbidding(model.__pydantic_core_schema__, model)
    fields = {(info.alias or name): info for name, info in model.model_fields.items()}
    optional = frozenset(name for name, info in fields.items() if not info.is_required())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PydanticJsonSchemaWarning)
        schema = model.model_json_schema(by_alias=True, schema_generator=_PlainJsonSchema)
    schema.pop("title", None)
    schema.setdefault("properties", {})
    if model.model_config.get("extra") not in ("allow", "ignore"):
        schema["additionalProperties"] = False

    def fields_of(instance: BaseModel) -> dict[str, Any]:
        values = dict(instance.__dict__)
        if instance.__pydantic_extra__:
            values.update(instance.__pydantic_extra__)
        return values

    return schema, TypedCheck(core, tuple(fields), optional, fields_of)


def from_signature(
    func: Callable[..., Any], *, skip: frozenset[str] = frozenset(), described: str | None = None
) -> tuple[dict[str, Any], TypedCheck]:
    """The JSON Schema and the check of a function's parameters; skip names those that callers never give.

    Descriptions come from Field(description=...) or from the docstring (described, if given, else func's).
    Raises ConfigurationError for *args, positional-only parameters and annotations that cannot be resolved.
    """
    name = getattr(func, "__qualname__", repr(func))
    docs = _parameter_docs(described if described is not None else inspect.getdoc(func) or "")
    hints = annotations_of(func)
    fields: dict[str, Any] = {}
    extras = False
    for parameter in inspect.signature(func).parameters.values():
        if parameter.name in skip:
            continue
        if parameter.kind is parameter.VAR_KEYWORD:
            extras = True
            continue
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.POSITIONAL_ONLY):
            raise ConfigurationError(
                f"{name}: parameter '{parameter.name}' cannot be given by name; make it an ordinary named parameter"
            )
        fields[parameter.name] = _field(parameter, hints.get(parameter.name, Any), docs.get(parameter.name))
    shape: Any = _TypedDict("Arguments", fields)
    shape.__pydantic_config__ = ConfigDict(extra="allow" if extras else "forbid", arbitrary_types_allowed=True)
    try:
        adapter = TypeAdapter(shape)
        core = adapter.core_schema
    except (PydanticUserError, PydanticUndefinedAnnotation, TypeError) as exc:
        raise ConfigurationError(f"{name}: a parameter's annotation cannot be checked: {exc}") from exc
    optional = frozenset(n for n, f in fields.items() if f.__origin__ is NotRequired)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PydanticJsonSchemaWarning)
        try:
            schema = adapter.json_schema(schema_generator=_PlainJsonSchema)
        except Exception as exc:
            raise ConfigurationError(f"{name}: a parameter has no JSON form: {exc}") from exc
    schema.pop("title", None)
    schema.setdefault("properties", {})
    schema["additionalProperties"] = extras
    return schema, TypedCheck(core, tuple(fields), optional, scalar=not extras and _is_scalar(schema))


def _is_scalar(schema: Mapping[str, Any]) -> bool:
    return all(part.get("type") in ("integer", "number", "boolean") for part in schema["properties"].values())


def returns_of(func: Callable[..., Any]) -> dict[str, Any] | None:
    """The JSON Schema of a model or TypedDict that a function is annotated to return; None for anything looser."""
    annotation = annotations_of(func).get("return")
    is_model = isinstance(annotation, type) and issubclass(annotation, BaseModel)
    if annotation is None or not (is_model or typing.is_typeddict(annotation)):
        return None
    try:
        shape = annotation if is_model else _portable(annotation)
        schema = TypeAdapter(shape).json_schema(mode="serialization", schema_generator=_PlainJsonSchema)
    except Exception:  # a result type without a JSON form is simply not declared
        return None
    return schema


def _portable(typed_dict: Any) -> Any:
    """A TypedDict as pydantic takes it on every Python: typing's own has lost which keys are required before 3.12."""
    hints = typing.get_type_hints(typed_dict, include_extras=True)
    required: frozenset[str] = typed_dict.__required_keys__
    return _TypedDict(
        typed_dict.__name__, {k: Required[h] if k in required else NotRequired[h] for k, h in hints.items()}
    )


def annotations_of(func: Callable[..., Any]) -> dict[str, Any]:
    """A function's annotations, resolved; those that name nothing importable raise ConfigurationError."""
    target = inspect.unwrap(getattr(func, "__func__", func))
    if not inspect.isroutine(target):
        target = getattr(type(target), "__call__", target)  # noqa: B004
    try:
        return typing.get_type_hints(target, include_extras=True)
    except NameError as exc:
        raise ConfigurationError(
            f"{getattr(func, '__qualname__', func)}: annotation {exc}; import the name where the function is defined"
        ) from exc
    except TypeError:
        return dict(getattr(target, "__annotations__", {}))


def context_parameter(func: Callable[..., Any]) -> str | None:
    """The parameter annotated ToolContext, if there is one."""
    hints = annotations_of(func)
    for name, hint in hints.items():
        if name != "return" and (hint is ToolContext or ToolContext in typing.get_args(hint)):
            return name
    return None


def _field(parameter: inspect.Parameter, annotation: Any, doc: str | None) -> Any:
    if parameter.default is inspect.Parameter.empty:
        if doc and not _described(annotation):
            annotation = typing.Annotated[annotation, FieldInfo(description=doc)]
        return Required[annotation]
    info: dict[str, Any] = {"default": parameter.default}
    if doc and not _described(annotation):
        info["description"] = doc
    if isinstance(parameter.default, FieldInfo):
        return NotRequired[typing.Annotated[annotation, parameter.default]]
    return NotRequired[typing.Annotated[annotation, FieldInfo(**info)]]


def _described(annotation: Any) -> bool:
    return any(isinstance(m, FieldInfo) and m.description for m in getattr(annotation, "__metadata__", ()))


_PARAM_LINE = re.compile(r"^\s{0,8}(\*{0,2}\w+)\s*(?:\([^)]*\))?\s*:\s*(.+)$")
_SPHINX = re.compile(r"^\s*:param\s+(?:[\w\[\], .]+\s+)?(\w+)\s*:\s*(.+)$")


def _parameter_docs(doc: str) -> dict[str, str]:
    """Descriptions of parameters from a docstring's Args section (Google) or :param lines (Sphinx)."""
    found: dict[str, str] = {}
    inside, last = False, None
    for line in doc.splitlines():
        if sphinx := _SPHINX.match(line):
            found[sphinx[1]] = sphinx[2].strip()
            continue
        heading = line.strip().lower()
        if heading in ("args:", "arguments:", "parameters:"):
            inside, last = True, None
            continue
        if not inside:
            continue
        if line and not line[0].isspace():
            inside = False
            continue
        indent = len(line) - len(line.lstrip())
        match = _PARAM_LINE.match(line)
        if match and indent <= 4:
            last = match[1].lstrip("*")
            found[last] = match[2].strip()
        elif last and line.strip():
            found[last] += " " + line.strip()
        elif not line.strip():
            last = None
    return found


def _tightened(schema: Any, *, lenient: bool) -> Any:
    """A copy of a core schema in which int, float and bool take only numbers and booleans as JSON has them."""
    if isinstance(schema, dict):
        kind = schema.get("type")
        copy = {
            k: v if k in UNTOUCHED and isinstance(kind, str) else _tightened(v, lenient=lenient)
            for k, v in schema.items()
        }
        if kind in STRICT_TYPES and isinstance(kind, str):
            return _strict_scalar(copy, lenient)
        return copy
    if isinstance(schema, list):
        return [_tightened(item, lenient=lenient) for item in schema]
    if isinstance(schema, tuple):
        return tuple(_tightened(item, lenient=lenient) for item in schema)
    return schema


def _strict_scalar(node: dict[str, Any], lenient: bool) -> dict[str, Any]:
    explicit = "strict" in node
    node.setdefault("strict", True)
    if node["type"] == "float":
        node.setdefault("allow_inf_nan", False)
    if node["type"] == "int" and lenient and not explicit:
        return {"type": "function-before", "function": {"type": "no-info", "function": _whole}, "schema": node}
    return node


def _whole(value: Any) -> Any:
    return int(value) if value.__class__ is float and value.is_integer() else value


def _forbidding(core: Any, model: type[BaseModel]) -> Any:
    """A copy of a model's core schema whose top level refuses unknown fields, unless the model says otherwise."""
    if model.model_config.get("extra") in ("allow", "ignore"):
        return core

    def at(node: Any) -> Any:
        if not isinstance(node, dict):
            return node
        kind = node.get("type")
        if kind == "definitions":
            inner = node["schema"]
            if inner.get("type") == "definition-ref":
                ref = inner["schema_ref"]
                return {**node, "definitions": [at(d) if d.get("ref") == ref else d for d in node["definitions"]]}
            return {**node, "schema": at(inner)}
        if kind == "model-fields":
            return {**node, "extra_behavior": "forbid"}
        if "schema" in node:
            return {**node, "schema": at(node["schema"])}
        return node

    return at(core)
