"""Specs to dicts and JSON and back, without their secrets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

from pydantic import SecretStr

from toolpost.authoring.declaration import nearest
from toolpost.authoring.parameters import CLASSES, ToolParameter
from toolpost.authoring.specs import (
    DatabaseProvider,
    DbToolSpec,
    DynamoDbToolSpec,
    FunctionToolSpec,
    HttpToolSpec,
    MySqlToolSpec,
    PolicyConfig,
    PostgreSqlToolSpec,
    SqliteToolSpec,
    ToolSpec,
    ToolType,
)
from toolpost.calls.errors import ConfigurationError
from toolpost.calls.references import REFERENCE, only_names
from toolpost.calls.secret_names import CREDENTIAL

PLUGINS = ("idempotency_key_generator", "circuit_breaker_policy", "retry_policy")

_drivers: dict[str, type[DbToolSpec]] = {
    DatabaseProvider.DYNAMODB.value: DynamoDbToolSpec,
    DatabaseProvider.POSTGRESQL.value: PostgreSqlToolSpec,
    DatabaseProvider.MYSQL.value: MySqlToolSpec,
    DatabaseProvider.SQLITE.value: SqliteToolSpec,
}


class ToolSerializationError(ConfigurationError):
    """A spec cannot be written, or what was read is not a spec."""

    code = "serialization"


def register_db_driver(name: str, spec_class: type[DbToolSpec], *, replace: bool = False) -> None:
    """Let tool_from_dict make a spec_class for a database driver.

    Raises ConfigurationError when the driver has another class already and replace is not set.
    """
    if not _is_db_class(spec_class):
        raise ConfigurationError(f"driver {name!r}: {spec_class!r} is not a class; subclass DbToolSpec")
    provider = spec_class.provider
    if provider is not None and provider != name:
        raise ConfigurationError(
            f"driver {name!r}: {spec_class.__name__} is for {provider.value!r}; subclass DbToolSpec"
        )
    taken = _drivers.get(name)
    if taken is not None and taken is not spec_class and not replace:
        raise ConfigurationError(f"driver {name!r} has {taken.__name__} already; replace=True replaces it")
    _drivers[name] = spec_class


def tool_to_dict(spec: ToolSpec) -> dict[str, Any]:
    """A spec as JSON values, from which tool_from_dict makes its equal.

    Secrets are left out: fields of type SecretStr, and headers and query parameters whose names tell of
    credentials; but a value that starts with secret:// only names a secret and is written. retry,
    circuit_breaker and idempotency are written as far as they were set. Raises ToolSerializationError for
    what is not data (a policy object) and for a class that tool_from_dict would not choose.
    """
    _refuse_unreadable(spec)
    values = {name: getattr(spec, name) for name in type(spec).model_fields} | (spec.model_extra or {})
    written: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, PolicyConfig):
            if value.asked() or name in spec.model_fields_set:
                written[name] = _plain(spec, name, {field: getattr(value, field) for field in value.asked()})
        elif isinstance(spec, HttpToolSpec) and name in ("headers", "query_params") and value is not None:
            shown = {key: item for key, item in value.items() if _may_show(key, item)}
            written[name] = _plain(spec, name, shown)
        elif name not in PLUGINS and not _is_secret(value):
            written[name] = _plain(spec, name, value)
    return written


def tool_from_dict(data: Mapping[str, Any], *, secrets: Mapping[str, Any] | None = None) -> ToolSpec:
    """The spec that data describes; tool_type chooses the class, and for databases the driver does.

    secrets gives what was not written: {"password": "…"}, {"headers": {"Authorization": "…"}}.
    Raises ToolSerializationError, naming what is unknown, missing or wrong.
    """
    values = _fields(data)
    for name, value in (secrets or {}).items():
        into = values.get(name)
        if isinstance(into, Mapping) and isinstance(value, Mapping):
            value = {**into, **value}
        values[name] = value
    spec_class = _class_of(values)
    for name, field in spec_class.model_fields.items():
        if field.annotation is SecretStr and field.is_required() and name not in values:
            raise ToolSerializationError(
                f"{spec_class.__name__} {values.get('tool_name')!r} needs {name!r}, which is never written; "
                f"give it by secrets={{{name!r}: …}}"
            )
    try:
        return spec_class(**values)
    except RecursionError:
        raise ToolSerializationError("the spec is nested too deeply") from None
    except ConfigurationError as error:
        raise ToolSerializationError(error.message) from error


def tool_to_json(spec: ToolSpec, *, indent: int | None = None) -> str:
    """A spec as JSON text; see tool_to_dict."""
    return json.dumps(tool_to_dict(spec), indent=indent, allow_nan=False)


def tool_from_json(text: str | bytes, *, secrets: Mapping[str, Any] | None = None) -> ToolSpec:
    """The spec that JSON text describes; see tool_from_dict. A key that is given twice is refused."""
    try:
        data = json.loads(text, object_pairs_hook=_once)
    except RecursionError:
        raise ToolSerializationError("the spec is nested too deeply") from None
    except ToolSerializationError:
        raise
    except (TypeError, ValueError) as error:  # not text, not UTF-8, not JSON, or a number too long to read
        raise ToolSerializationError(f"the text is not JSON: {error}") from None
    return tool_from_dict(data, secrets=secrets)


def _is_db_class(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, DbToolSpec)


def _fields(data: Any) -> dict[str, Any]:
    if not isinstance(data, Mapping):
        raise ToolSerializationError(f"a spec is read from a mapping, not from a {type(data).__name__}")
    for key in data:
        if not isinstance(key, str):
            raise ToolSerializationError(f"the names of a spec's fields are text, not {type(key).__name__}")
    return dict(data)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ToolSerializationError(f"the key {key[:100]!r} is given twice; keep one")
        found[key] = value
    return found


def _class_of(data: Mapping[str, Any]) -> type[ToolSpec]:
    kind = data.get("tool_type")
    if kind == ToolType.FUNCTION:
        return FunctionToolSpec
    if kind == ToolType.HTTP:
        return HttpToolSpec
    if kind == ToolType.DB:
        return _db_class(data.get("driver", DatabaseProvider.DYNAMODB.value))
    raise _unknown("tool_type", kind, [known.value for known in ToolType])


def _db_class(driver: Any) -> type[DbToolSpec]:
    if isinstance(driver, str) and driver in _drivers:
        return _drivers[driver]
    raise _unknown("driver", driver, list(_drivers), "; register_db_driver adds one")


def _unknown(what: str, value: Any, known: list[str], more: str = "") -> ToolSerializationError:
    listed = f"known: {', '.join(known)}{more}"
    if value is None:
        return ToolSerializationError(f"{what} is missing; {listed}")
    if not isinstance(value, str):
        return ToolSerializationError(f"{what} must be text, not {type(value).__name__}; {listed}")
    near = nearest(value, known)
    hint = f"did you mean {near!r}? " if near else ""
    return ToolSerializationError(f"{what} {value[:100]!r} is unknown; {hint}{listed}")


def _refuse_unreadable(spec: ToolSpec) -> None:
    for name in PLUGINS:
        if (plugin := getattr(spec, name)) is not None:
            raise ToolSerializationError(
                f"{spec.tool_name}: {name} holds a {type(plugin).__name__}, which is code and cannot be "
                "written; set it to None, and set it again on the spec that is read"
            )
    own = type(spec)
    if not isinstance(spec, DbToolSpec):
        chosen: type[ToolSpec] = HttpToolSpec if spec.tool_type is ToolType.HTTP else FunctionToolSpec
        if own is not chosen:
            raise ToolSerializationError(
                f"{spec.tool_name}: a {own.__name__} cannot be read again, only a {chosen.__name__} can"
            )
    elif _drivers.get(spec.driver) is not own:
        raise ToolSerializationError(
            f"{spec.tool_name}: a {own.__name__} of driver {spec.driver!r} cannot be read again; use that "
            f"driver's class, or call register_db_driver({spec.driver!r}, {own.__name__})"
        )


def _plain(spec: ToolSpec, field: str, value: Any) -> Any:
    if isinstance(value, SecretStr):
        return value.get_secret_value()  # a reference: secrets were left out before
    if isinstance(value, Enum):
        return value.value
    if value is None or isinstance(value, str | int | float):
        return value
    if is_dataclass(value) and not isinstance(value, type):  # a policy
        return {one.name: _plain(spec, field, getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, ToolParameter):
        return _parameter(spec, field, value)
    if isinstance(value, Mapping):
        return {key: _plain(spec, field, item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(spec, field, item) for item in value]
    raise ToolSerializationError(f"{spec.tool_name}: {field} holds a {type(value).__name__}, which is not data")


def _parameter(spec: ToolSpec, field: str, value: ToolParameter) -> dict[str, Any]:
    """A parameter's type, name and whatever differs from the defaults."""
    own = type(value)
    if own is not (ToolParameter if value.type is None else CLASSES[value.type.value]):
        raise ToolSerializationError(
            f"{spec.tool_name}: parameter {value.name!r} is a {own.__name__}, which cannot be read again; "
            f"use {own.__mro__[1].__name__}"
        )
    changed = {
        name: getattr(value, name)
        for name, info in own.model_fields.items()
        if name in ("type", "name") or getattr(value, name) != info.default
    }
    return {name: _plain(spec, field, item) for name, item in changed.items()}


def _is_secret(value: Any) -> bool:
    return isinstance(value, SecretStr) and not value.get_secret_value().startswith(REFERENCE)


def _may_show(name: str, value: Any) -> bool:
    return value is None or only_names(value) or not CREDENTIAL.search(name)
