"""The parameter classes of a spec: what an argument may be, as values, and the JSON Schema they stand for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Self

from pydantic import ConfigDict, Field, PlainValidator, SerializeAsAny, StrictBool, model_validator

from toolpost.authoring.declaration import Count, Declaration, Integer, Json, Number, as_json, nearest, shown
from toolpost.calls.errors import ConfigurationError

Coercion = Callable[[Any], Any]
"""Turns an argument as it came into the one that is checked."""


class ParameterType(StrEnum):
    """The JSON type of a parameter."""

    STRING = "string"
    NUMBER = "number"
    INTEGER = "integer"
    BOOLEAN = "boolean"
    ARRAY = "array"
    OBJECT = "object"


class ToolParameter(Declaration):
    """One argument of a tool; by itself, any JSON value. A value: it cannot be changed once made.

    default None means that there is none; examples must fit. Raises ConfigurationError for a contradiction.
    """

    model_config = ConfigDict(frozen=True)
    kind: ClassVar[ParameterType | None] = None

    type: ParameterType | None = Field(default=None, repr=False)
    name: str
    description: str = ""
    required: StrictBool = False
    default: Json = None
    deprecated: StrictBool = False
    examples: list[Json] = Field(default_factory=list)

    def json_schema(self) -> dict[str, Any]:
        """The JSON Schema (2020-12) of one argument, with its description, default and examples."""
        schema = self._shape()
        if self.description:
            schema["description"] = self.description
        if self.default is not None:
            schema["default"] = as_json(self.default)
        if self.examples:
            schema["examples"] = as_json(self.examples)
        if self.deprecated:
            schema["deprecated"] = True
        return schema

    def _shape(self) -> dict[str, Any]:
        return {"type": self.type.value} if self.type is not None else {}

    def _contradictions(self) -> Iterator[str]:
        return iter(())

    @model_validator(mode="before")
    @classmethod
    def _typed(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        given = data.get("type", cls.kind)
        if given != cls.kind:
            right = CLASSES.get(given) if isinstance(given, str) else None
            raise ValueError(
                f"type {shown(given)} does not belong to {cls.__name__}"
                + (f"; use {right.__name__}" if right else f"; the types are {', '.join(CLASSES)}")
            )
        return {**data, "type": cls.kind}

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if not self.name or self.name != self.name.strip():
            raise ValueError(f"name must be text without spaces around it, got {shown(self.name)}")
        if contradiction := next(self._contradictions(), None):
            raise ValueError(contradiction)
        if self.required and self.default is not None:
            raise ValueError("required=True and a default contradict each other; drop one of them")
        if self.default is not None and (misfit := _misfit(self._shape(), self.default)):
            raise ValueError(f"default does not fit: {misfit}")
        for example in self.examples:
            if misfit := _misfit(self._shape(), example):
                raise ValueError(f"an example does not fit: {misfit}")
        return self


class StringParameter(ToolParameter):
    """Text. pattern is an ECMA regular expression that the whole text must match; lengths count characters.

    format is a JSON Schema format (email, uri, date, …). enum lists all allowed texts. coerce=True takes
    numbers and booleans too and turns them into text, as JSON writes them, before the check.
    """

    kind: ClassVar[ParameterType | None] = ParameterType.STRING

    enum: list[str] | None = None
    format: str | None = None
    min_length: Count | None = None
    max_length: Count | None = None
    pattern: str | None = None
    coerce: StrictBool = False

    def _shape(self) -> dict[str, Any]:
        return super()._shape() | _given(
            enum=None if self.enum is None else list(self.enum),
            format=self.format,
            minLength=self.min_length,
            maxLength=self.max_length,
            pattern=None if self.pattern is None else f"^(?:{self.pattern})$",
        )

    def _contradictions(self) -> Iterator[str]:
        yield from _crossed("min_length", self.min_length, "max_length", self.max_length)
        if self.pattern is not None and not (_is_regex(self.pattern) and _is_regex(self._shape()["pattern"])):
            yield f"pattern {shown(self.pattern)} is not a regular expression of JSON Schema (ECMA 262)"
        if self.enum is not None:
            yield from self._enum_contradictions(self.enum)

    def _enum_contradictions(self, enum: list[str]) -> Iterator[str]:
        if not enum:
            yield "enum must list at least one text"
        if twice := next((text for n, text in enumerate(enum) if text in enum[:n]), None):
            yield f"enum has {shown(twice)} twice"
        others = {key: value for key, value in self._shape().items() if key != "enum"}
        if len(others) > 1:
            for text in enum:
                if misfit := _misfit(others, text):
                    yield f"a text of enum does not fit: {misfit}"


class NumericParameter(ToolParameter):
    """A number, whole or not. min and max are both allowed values."""

    kind: ClassVar[ParameterType | None] = ParameterType.NUMBER

    min: Number | None = None
    max: Number | None = None

    def _shape(self) -> dict[str, Any]:
        return super()._shape() | _given(minimum=self.min, maximum=self.max)

    def _contradictions(self) -> Iterator[str]:
        yield from _crossed("min", self.min, "max", self.max)


class IntegerParameter(NumericParameter):
    """A whole number. min and max are both allowed values."""

    kind: ClassVar[ParameterType | None] = ParameterType.INTEGER

    min: Integer | None = None
    max: Integer | None = None


class BooleanParameter(ToolParameter):
    """true or false."""

    kind: ClassVar[ParameterType | None] = ParameterType.BOOLEAN


def parameter_from(value: Any, name: str | None = None) -> ToolParameter:
    """A parameter as it is, or made from a mapping: "type" chooses the class, the rest are its fields.

    name is used where the mapping gives none. "type": null makes a ToolParameter, which takes any JSON value.
    Raises ConfigurationError.
    """
    if isinstance(value, ToolParameter):
        return value
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ConfigurationError(f"a parameter must be a ToolParameter or a mapping with a 'type', got {shown(value)}")
    data = dict(value) if name is None else {"name": name, **value}
    kind = data.get("type", "")
    if kind is None:
        return ToolParameter(**data)
    if not isinstance(kind, str) or kind not in CLASSES:
        near = nearest(kind, CLASSES) if isinstance(kind, str) else None
        said = f"has type {shown(kind)}" if "type" in data else "has no 'type'"
        raise ConfigurationError(
            f"parameter {shown(data.get('name'))} {said}; "
            + (f"did you mean {near!r}?" if near else f"the types are {', '.join(CLASSES)}")
        )
    return CLASSES[kind](**data)


AnyParameter = Annotated[SerializeAsAny[ToolParameter], PlainValidator(parameter_from)]


def _items(value: Any) -> ToolParameter | None:
    return None if value is None else parameter_from(value, "item")


def _properties(value: Any) -> dict[str, ToolParameter] | None:
    if value is None:
        return None
    if isinstance(value, list | tuple):
        found = [parameter_from(item) for item in value]
        _refuse_duplicates(found)
        return {parameter.name: parameter for parameter in found}
    if not isinstance(value, Mapping):
        raise ValueError(f"must map names to parameters, got {shown(value)}")
    named = {key: parameter_from(item, key) for key, item in value.items()}
    for key, parameter in named.items():
        if parameter.name != key:
            raise ValueError(f"{shown(key)} holds a parameter named {parameter.name!r}; make them the same")
    return named


def _options(value: Any) -> list[ToolParameter] | None:
    if value is None:
        return None
    if not isinstance(value, list | tuple) or not value:
        raise ValueError(f"must be a list of at least one ObjectParameter, got {shown(value)}")
    return [parameter_from(item, f"option {n}") for n, item in enumerate(value, 1)]


class ArrayParameter(ToolParameter):
    """A list. items says what each element is (its name does not matter); None allows anything."""

    kind: ClassVar[ParameterType | None] = ParameterType.ARRAY

    items: Annotated[SerializeAsAny[ToolParameter] | None, PlainValidator(_items)] = None
    min_items: Count | None = None
    max_items: Count | None = None
    unique_items: StrictBool = False

    def _shape(self) -> dict[str, Any]:
        return super()._shape() | _given(
            items=None if self.items is None else self.items.json_schema(),
            minItems=self.min_items,
            maxItems=self.max_items,
            uniqueItems=self.unique_items or None,
        )

    def _contradictions(self) -> Iterator[str]:
        yield from _crossed("min_items", self.min_items, "max_items", self.max_items)


class ObjectParameter(ToolParameter):
    """An object. properties (a mapping, or a list of parameters) names all there may be; None: anything.

    A property is required if its parameter says so. oneOf lists ObjectParameters of which exactly one must
    fit; each has the object's properties besides its own, and its own win.
    """

    kind: ClassVar[ParameterType | None] = ParameterType.OBJECT

    properties: Annotated[dict[str, SerializeAsAny[ToolParameter]] | None, PlainValidator(_properties)] = None
    oneOf: Annotated[list[SerializeAsAny[ToolParameter]] | None, PlainValidator(_options)] = None

    def _shape(self) -> dict[str, Any]:
        return self._object({})

    def _object(self, inherited: Mapping[str, ToolParameter]) -> dict[str, Any]:
        properties = {**inherited, **(self.properties or {})}
        if self.oneOf:
            options = (option for option in self.oneOf if isinstance(option, ObjectParameter))
            return super()._shape() | {"oneOf": [option._object(properties) for option in options]}
        return super()._shape() | (_closed(properties.values()) if properties else {})

    def _contradictions(self) -> Iterator[str]:
        coerced = coercions((self.properties or {}).values())
        for option in self.oneOf or ():
            if not isinstance(option, ObjectParameter):
                yield f"oneOf has a {type(option).__name__}, which no object fits; use ObjectParameter"
            elif _coercion(option) is not None or coerced.keys() & (option.properties or {}).keys():
                yield f"oneOf: in {option.name!r} a parameter has coerce=True, so that two options could fit"


CLASSES: Mapping[str, type[ToolParameter]] = {
    cls.kind.value: cls
    for cls in (
        StringParameter,
        NumericParameter,
        IntegerParameter,
        BooleanParameter,
        ArrayParameter,
        ObjectParameter,
    )
    if cls.kind is not None
}
"""The class that stands for each JSON type."""


def parameters_to_json_schema(parameters: Iterable[ToolParameter]) -> dict[str, Any]:
    """The JSON Schema (2020-12) of a tool's arguments: an object with these properties and no others.

    Raises ConfigurationError for two parameters of one name, and for what is not a parameter.
    """
    found = [parameter_from(parameter) for parameter in parameters]
    _refuse_duplicates(found)
    return {"type": "object", **_closed(found)}


def coercions(parameters: Iterable[ToolParameter]) -> dict[str, Coercion]:
    """Parameter name -> what to do to its argument before the check, for those with coerce=True in them."""
    found = [parameter_from(parameter) for parameter in parameters]
    return {p.name: coercion for p in found if (coercion := _coercion(p)) is not None}


def _coercion(parameter: ToolParameter) -> Coercion | None:
    if isinstance(parameter, StringParameter):
        return _as_text if parameter.coerce else None
    if isinstance(parameter, ArrayParameter) and parameter.items is not None:
        return _each(element) if (element := _coercion(parameter.items)) else None
    if isinstance(parameter, ObjectParameter) and parameter.properties:
        return _at(members) if (members := coercions(parameter.properties.values())) else None
    return None


def _as_text(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        try:
            return str(value)
        except ValueError:  # longer than the interpreter writes in decimal: left for the check to refuse
            return value
    return value


def _each(element: Coercion) -> Coercion:
    return lambda value: [element(item) for item in value] if isinstance(value, list) else value


def _at(members: Mapping[str, Coercion]) -> Coercion:
    def coerce(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {key: members[key](item) if key in members else item for key, item in value.items()}

    return coerce


def _closed(parameters: Iterable[ToolParameter]) -> dict[str, Any]:
    found = list(parameters)
    return {
        "properties": {parameter.name: parameter.json_schema() for parameter in found},
        "required": [parameter.name for parameter in found if parameter.required],
        "additionalProperties": False,
    }


def _refuse_duplicates(parameters: Iterable[ToolParameter]) -> None:
    seen: set[str] = set()
    for parameter in parameters:
        if parameter.name in seen:
            raise ConfigurationError(f"two parameters are named {parameter.name!r}; rename one of them")
        seen.add(parameter.name)


def _given(**keywords: Any) -> dict[str, Any]:
    return {key: value for key, value in keywords.items() if value is not None}


def _crossed(low: str, lowest: float | None, high: str, highest: float | None) -> Iterator[str]:
    if lowest is not None and highest is not None and lowest > highest:
        yield f"{low} {lowest!r} is more than {high} {highest!r}, so nothing fits"


def _is_regex(pattern: str) -> bool:
    import jsonschema_rs

    try:
        jsonschema_rs.Draft202012Validator({"pattern": pattern})
    except ValueError:  # the base of jsonschema_rs.ValidationError
        return False
    return True


def _misfit(schema: Mapping[str, Any], value: Any) -> str | None:
    """Why the value does not fit, None when it does."""
    import jsonschema_rs

    validator = jsonschema_rs.Draft202012Validator(dict(schema), validate_formats=True, offline=True)
    error = next(iter(validator.iter_errors(value)), None)
    return None if error is None else error.message[:300]
