"""Reads settings from toolpost.toml and environment variables; what they mean is settings.py's."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from toolpost.calls.errors import ConfigurationError
from toolpost.engine.forms import Form, number_or_none

PREFIX: Final = "TOOL_EXECUTOR_"
FILE_NAME: Final = "toolpost.toml"
FILE_VARIABLE: Final = "TOOL_EXECUTOR_CONFIG"

RESERVED: Final = (
    "TOOL_EXECUTOR_CIRCUIT_FAILURE_THRESHOLD",
    "TOOL_EXECUTOR_CIRCUIT_RESET_TIMEOUT_SECONDS",
    "TOOL_EXECUTOR_GROUP",
    "TOOL_EXECUTOR_MAX_CONCURRENT",
    "TOOL_EXECUTOR_METRICS_HOST",
    "TOOL_EXECUTOR_METRICS_PORT",
    "TOOL_EXECUTOR_TOPICS",
)
"""The queue worker's variables: known, kept as they stand, without effect on the engine."""

FURTHER_NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "cache_backend": ("CACHE_BACKEND",),
    "cache_redis_url": ("TOOL_EXECUTOR_REDIS_URL", "CACHE_REDIS_URL"),
    "cache_prefix": ("TOOL_EXECUTOR_PREFIX", "CACHE_PREFIX"),
    "timeout": ("TIMEOUT_SECONDS",),
    "max_input_size": ("MAX_INPUT_SIZE",),
    "allowed_file_extensions": ("ALLOWED_FILE_EXTENSIONS",),
    "sandbox_root": ("SANDBOX_ROOT",),
    "sandbox_cpu_seconds": ("TOOL_EXECUTOR_CPU_SECONDS",),
    "sandbox_memory_mb": ("TOOL_EXECUTOR_MEMORY_MB",),
    "security_level": ("SECURITY_LEVEL",),
    "enable_metrics": ("ENABLE_TOOL_EXECUTOR_METRICS", "ENABLE_METRICS"),
    "metrics_backend": ("METRICS_BACKEND",),
    "prometheus_port": ("PROMETHEUS_PORT",),
    "arcade_api_key": ("ARCADE_API_KEY",),
    "arcade_base_url": ("ARCADE_BASE_URL",),
    "oauth_client_id": ("OAUTH_CLIENT_ID",),
    "oauth_client_secret": ("OAUTH_CLIENT_SECRET",),
    "oauth_redirect_uri": ("OAUTH_REDIRECT_URI",),
    "database_url": ("DATABASE_URL",),
    "secret_key": ("SECRET_KEY",),
    "allowed_hosts": ("ALLOWED_HOSTS",),
}
"""Names a setting has beside TOOL_EXECUTOR_<SETTING>, in the order in which they are asked."""


class Given(NamedTuple):
    """A value that somebody set, still unchecked, and who: "file <path>", "environment <NAME>" or "code"."""

    value: Any
    origin: str


def variables_of(setting: str) -> tuple[str, ...]:
    """The environment variables that set it; the first that is not empty wins."""
    return (PREFIX + setting.upper(), *FURTHER_NAMES.get(setting, ()))


def variable_table(settings: Iterable[str]) -> dict[str, tuple[str, int]]:
    """Every variable that sets something -> the setting, and the variable's rank among its names."""
    return {variable: (setting, rank) for setting in settings for rank, variable in enumerate(variables_of(setting))}


def from_environment(
    environ: Mapping[str, str], table: Mapping[str, tuple[str, int]], forms: Mapping[str, Form]
) -> tuple[dict[str, Given], dict[str, str]]:
    """What the environment sets, and the worker's variables in it. An empty variable is as good as none.

    Raises ConfigurationError naming every TOOL_EXECUTOR_ variable that is not known.
    """
    best: dict[str, tuple[int, str, str]] = {}
    reserved: dict[str, str] = {}
    unknown: list[str] = []
    for variable in environ:
        if variable in table:
            setting, rank = table[variable]
            if (text := environ[variable]) and (setting not in best or rank < best[setting][0]):
                best[setting] = (rank, variable, text)
        elif variable.startswith(PREFIX) and variable != FILE_VARIABLE and (text := environ[variable]):
            if variable in RESERVED:
                reserved[variable] = text
            else:
                unknown.append(variable)
    if unknown:
        raise unknown_names(unknown, "environment", [*table, FILE_VARIABLE, *RESERVED])
    given = {s: Given(forms[s].read(text), f"environment {name}") for s, (_, name, text) in best.items()}
    return given, reserved


def settings_file(named: str | os.PathLike[str] | None, environ: Mapping[str, str]) -> str | None:
    """The absolute path of the file to read: named by code, by TOOL_EXECUTOR_CONFIG, or toolpost.toml here.

    Raises ConfigurationError when a named file is not there.
    """
    by = "code" if named is not None else f"environment {FILE_VARIABLE}"
    path = os.fspath(named) if named is not None else environ.get(FILE_VARIABLE, "")
    if not path:
        return os.path.abspath(FILE_NAME) if os.path.isfile(FILE_NAME) else None
    path = os.path.abspath(os.path.expanduser(path))
    if not os.path.exists(path):
        raise ConfigurationError(f"there is no settings file {path} ({by}); name one that exists, or none")
    return path


def from_file(path: str, forms: Mapping[str, Form], aliases: Mapping[str, str]) -> dict[str, Given]:
    """What a TOML file sets, at its top level or in its table [toolpost].

    Raises ConfigurationError when it cannot be read, is not TOML, or names something that is no setting.
    """
    origin = f"file {path}"
    document = _document(path)
    table = document.pop("toolpost", {})
    if not isinstance(table, dict):
        raise ConfigurationError(f"toolpost must be a table of settings, got {table!r:.80} ({origin})")
    twice = sorted(document.keys() & table.keys())
    if twice:
        raise ConfigurationError(f"{twice[0]} is set at the top level and in [toolpost] ({origin}); keep one")
    values = by_setting(document | table, origin, forms, aliases)
    return {setting: Given(_placed(value, forms[setting], path), origin) for setting, value in values.items()}


def by_setting(
    values: Mapping[str, Any], origin: str, forms: Mapping[str, Form], aliases: Mapping[str, str]
) -> dict[str, Any]:
    """The same values under the settings' own names.

    Raises ConfigurationError for names that are no settings, and for a setting given by both its names.
    """
    unknown = [name for name in values if name not in forms and name not in aliases]
    if unknown:
        raise unknown_names(unknown, origin, [*forms, *aliases])
    for alias, setting in aliases.items():
        if alias in values and setting in values:
            raise ConfigurationError(f"{alias} is {setting} by another name ({origin}); give one of them")
    return {aliases.get(name, name): value for name, value in values.items()}


def unknown_names(names: Iterable[object], origin: str, known: Iterable[str]) -> ConfigurationError:
    """The error for names that are no settings, each with the nearest known one."""
    choices = sorted(known)
    return ConfigurationError("; ".join(_unknown(name, origin, choices) for name in names))


def _unknown(name: object, origin: str, known: list[str]) -> str:
    near = _nearest(name, known) if isinstance(name, str) else None
    way_out = f"did you mean {near!r}?" if near else "`toolpost config` lists all there are"
    return f"no setting is named {name!r:.100} ({origin}); {way_out}"


def _nearest(name: str, known: list[str]) -> str | None:
    import difflib

    # without the prefix, which would make all that have it alike
    plain = {choice.removeprefix(PREFIX).lower(): choice for choice in known}
    written = name.lower().removeprefix(PREFIX.lower()).replace("-", "_").replace(" ", "_")
    close = difflib.get_close_matches(written, plain, n=1)
    return plain[close[0]] if close else None


def _document(path: str) -> dict[str, Any]:
    import tomllib

    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except OSError as exc:
        raise ConfigurationError(f"the settings file {path} cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise ConfigurationError(f"the settings file {path} is not UTF-8 at byte {exc.start}") from exc
    except tomllib.TOMLDecodeError as exc:
        raise ConfigurationError(f"the settings file {path} is not TOML: {exc}") from exc


def _placed(value: Any, form: Form, file: str) -> Any:
    """A value from a file: paths start at the file's folder; "none" is None, which TOML lacks."""
    if form.path and isinstance(value, list):
        return [_placed(item, form, file) for item in value]
    if form.path and isinstance(value, str) and value:
        return os.path.join(os.path.dirname(file), os.path.expanduser(value))
    if form.read is number_or_none and isinstance(value, str) and value.lower() == "none":
        return None
    return value
