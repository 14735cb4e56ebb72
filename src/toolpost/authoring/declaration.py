"""Declaration: the base of what authors declare as data, whose mistakes name the class, the field and the fix."""

from __future__ import annotations

import copy
import difflib
import math
import reprlib
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError

from toolpost.calls.errors import ConfigurationError
from toolpost.calls.secret_names import CREDENTIAL


def as_json(value: Any) -> Any:
    """A deep copy of a JSON value; tuples become lists, enum members their values. ValueError for others."""
    try:
        return _as_json(value)
    except RecursionError:
        raise ValueError("must be JSON, and not nested so deeply") from None


def _as_json(value: Any) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Enum):
        return _as_json(value.value)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"must be JSON, which has no {value!r}")
        return float(value)
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise ValueError(f"must be JSON, whose keys are text, got a key of type {type(key).__name__}")
        return {_as_json(key): _as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(item) for item in value]
    raise ValueError(f"must be JSON, got {shown(value)}")


def _number(value: Any) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"must be a finite number, got {shown(value)}")
    return value


def _positive(value: Any) -> int | float:
    if not (number := _number(value)) > 0:
        raise ValueError(f"must be more than 0, got {number!r}")
    return number


def _not_negative(value: Any) -> int | float:
    if not (number := _number(value)) >= 0:
        raise ValueError(f"must be 0 or more, got {number!r}")
    return number


Json = Annotated[Any, PlainValidator(as_json)]
Number = Annotated[int | float, PlainValidator(_number)]
Positive = Annotated[int | float, PlainValidator(_positive)]
NotNegative = Annotated[int | float, PlainValidator(_not_negative)]
Integer = Annotated[int, Field(strict=True)]
Count = Annotated[int, Field(strict=True, ge=0)]


class Declaration(BaseModel):
    """A pydantic model whose mistakes are ConfigurationErrors that name the class, the field and the fix."""

    model_config = ConfigDict(
        extra="forbid", validate_assignment=True, hide_input_in_errors=True, arbitrary_types_allowed=True
    )

    if not TYPE_CHECKING:  # type checkers keep the signature that they derive from the fields

        def __init__(self, **data: Any) -> None:
            try:
                super().__init__(**data)
            except ValidationError as error:
                raise self._refusal(data, error) from None

        @classmethod
        def model_validate(cls, obj: Any, **options: Any) -> Self:
            try:
                return super().model_validate(obj, **options)
            except ValidationError as error:
                raise cls._refusal(obj, error) from None

        @classmethod
        def model_validate_json(cls, json_data: str | bytes | bytearray, **options: Any) -> Self:
            try:
                return super().model_validate_json(json_data, **options)
            except ValidationError as error:
                raise cls._refusal({}, error) from None

        def __setattr__(self, name: str, value: Any) -> None:
            # pydantic checks across fields after it has written the field: a refused value must not stay.
            slots = ("__dict__", "__pydantic_fields_set__", "__pydantic_extra__")
            before = {slot: copy.copy(getattr(self, slot)) for slot in slots}
            try:
                super().__setattr__(name, value)
            except ConfigurationError:
                raise
            except ValueError as error:  # a ValidationError, or pydantic's plain one for an unknown name
                for slot, old in before.items():
                    object.__setattr__(self, slot, old)
                if not isinstance(error, ValidationError):
                    raise ConfigurationError(f"{self._label(self)}: {self._unknown(name)}") from None
                raise self._refusal(self, error) from None

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        fields = type(self).model_fields
        for name, value in super().__repr_args__():
            if name not in fields or value != fields[name].get_default(call_default_factory=True):
                yield name, value

    @classmethod
    def _label(cls, data: Any) -> str:
        for key in ("tool_name", "name", "id"):
            name = data.get(key) if isinstance(data, Mapping) else getattr(data, key, None)
            if isinstance(name, str) and name:
                return f"{cls.__name__} {name[:100]!r}"
        return cls.__name__

    @classmethod
    def _unknown(cls, name: object) -> str:
        near = nearest(str(name), cls._names())
        fix = f"did you mean {near!r}?" if near else f"it has {', '.join(cls._names())}"
        return f"no field {str(name)[:100]!r}; {fix}"

    @classmethod
    def _names(cls) -> list[str]:
        return list(cls.model_fields)

    @classmethod
    def _refusal(cls, data: Any, error: ValidationError) -> ConfigurationError:
        problems = error.errors(include_url=False)
        if len(problems) == 1 and not problems[0]["loc"]:
            inner = problems[0].get("ctx", {}).get("error")
            if isinstance(inner, ConfigurationError):
                return inner
        said = [cls._sentence(problem) for problem in problems[:5]]
        if len(problems) > 5:
            said.append(f"and {len(problems) - 5} more")
        return ConfigurationError(f"{cls._label(data)}: {'; '.join(said)}")

    @classmethod
    def _sentence(cls, problem: Any) -> str:
        loc, kind = problem["loc"], problem["type"]
        where = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in loc).lstrip(".")
        if kind in ("extra_forbidden", "no_such_attribute"):
            return cls._unknown(loc[-1])
        if kind == "missing":
            return f"needs {where!r}"
        if kind == "frozen_instance":
            return f"{where} cannot be changed: make a new {cls.__name__}"
        if kind == "value_error":
            said = str(problem["ctx"]["error"])
        else:
            said = problem["msg"].replace("Input should", "must").replace("String should", "must")
            if not any(isinstance(step, str) and CREDENTIAL.search(step) for step in loc):
                said = f"{said}, got {shown(problem['input'])}"
        if not where:
            return said
        return f"{where} {said}" if said.startswith("must ") else f"{where}: {said}"


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known name that name was probably meant to be; case and underscores do not count."""
    plain = {candidate.replace("_", "").lower(): candidate for candidate in known}
    found = difflib.get_close_matches(name[:100].replace("_", "").lower(), plain, n=1, cutoff=cutoff)
    return plain[found[0]] if found else None


def shown(value: Any) -> str:
    """A value as messages show it: short, and of anything but plain values the type alone."""
    if value is None or isinstance(value, bool | int | float | str):
        try:
            return reprlib.repr(value)
        except ValueError:  # an int too long to be written in decimal
            return "a very large integer"
    return f"a value of type {type(value).__name__}"
