"""The sorts of settings: type and bounds, words for what a value must be, how a variable's text is read."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr

from toolpost.calls.references import REFERENCE, is_reference


@dataclass(frozen=True, slots=True)
class Form:
    """How one sort of setting is written.

    expected ends the sentence "<setting> must be ...". read turns a variable's text into the value to check;
    what it cannot read stays text, which the check refuses. A secret is never shown. A path that stands in a
    file starts at that file's folder.
    """

    expected: str
    read: Callable[[str], Any] = str
    secret: bool = False
    path: bool = False


_FLAGS: Final = {"true": True, "yes": True, "on": True, "1": True} | {
    "false": False,
    "no": False,
    "off": False,
    "0": False,
}


def flag(text: str) -> bool | str:
    """true, yes, on and 1, or false, no, off and 0, in any case."""
    return _FLAGS.get(text.strip().lower(), text)


def number(text: str) -> int | float | str:
    """A whole number where it is one, else a decimal one."""
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        return text


def number_or_none(text: str) -> int | float | str | None:
    """A number, or None for the word none."""
    return None if text.strip().lower() == "none" else number(text)


def comma_list(text: str) -> list[str] | str:
    """The parts between commas; commas alone name nothing and stay text, lest they read as a list of all."""
    return list(_parts(text, ",")) or text


def path_list(text: str) -> list[str] | str:
    """The parts between the platform's path separators, a colon on POSIX; separators alone stay text, too."""
    return list(_parts(text, os.pathsep)) or text


def _parts(text: str, separator: str) -> Iterator[str]:
    return (part.strip() for part in text.split(separator) if part.strip())


def _lower(value: Any) -> Any:
    return value.strip().lower() if isinstance(value, str) else value


def _upper(value: Any) -> Any:
    return value.strip().upper() if isinstance(value, str) else value


def _absolute(value: Any) -> Any:
    """An absolute path, fixed when it is set: a later change of the working directory does not move it."""
    if not isinstance(value, str | os.PathLike):
        return value
    path = os.fspath(value)
    if not isinstance(path, str) or not path or "\0" in path:
        raise ValueError
    return Path(os.path.abspath(os.path.expanduser(path)))


def _extension(value: str) -> str:
    text = value.strip().lower()
    text = text if text.startswith(".") else f".{text}"
    if not re.fullmatch(r"(\.[\w+~-]+)+", text):
        raise ValueError
    return text


def _network(value: str) -> str:
    return str(ipaddress.ip_network(value.strip(), strict=False))


def _redis_url(value: SecretStr) -> SecretStr:
    if not value.get_secret_value().startswith(("redis://", "rediss://", "unix://", REFERENCE)):
        raise ValueError
    return value


def _web_url(value: SecretStr) -> SecretStr:
    if not re.match(_URL, value.get_secret_value()) and not is_reference(value.get_secret_value()):
        raise ValueError
    return value


def _store_url(value: SecretStr) -> SecretStr:
    if not re.match(r"[a-z][a-z0-9+.-]*://", value.get_secret_value()):
        raise ValueError
    return value


def _one_of(choices: Any) -> Form:
    return Form("one of " + ", ".join(f"'{choice}'" for choice in get_args(choices)))


_LIMIT_S: Final = 1e9  # some 31 years; the platform's waits overflow at about nine times that
_LIMIT_DEPTH: Final = 250  # orjson gives up at 255 levels, and a result wraps what it holds
_WORD: Final = r"^\S+$"
_URL: Final = r"^https?://\S+$"

Switch = Annotated[bool, Field(strict=True), Form("true or false", flag)]
Count = Annotated[int, Field(strict=True, ge=1), Form("a whole number, 1 or more", number)]
CountOrZero = Annotated[int, Field(strict=True, ge=0), Form("a whole number, 0 or more", number)]
CountOrNone = Annotated[
    Annotated[int, Field(strict=True, ge=1)] | None,
    Form("a whole number, 1 or more, or none for no limit", number_or_none),
]
Depth = Annotated[int, Field(strict=True, ge=1, le=_LIMIT_DEPTH), Form("a whole number from 1 to 250", number)]
Port = Annotated[int, Field(strict=True, ge=1, le=65535), Form("a port from 1 to 65535", number)]
PortOrFree = Annotated[
    int, Field(strict=True, ge=0, le=65535), Form("a port from 1 to 65535, or 0 for a free one", number)
]
Factor = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False), Form("a number, 0 or more", number)]
Seconds = Annotated[
    float, Field(strict=True, ge=0, le=_LIMIT_S), Form("a number of seconds from 0 to 1000000000", number)
]
SomeSeconds = Annotated[
    float,
    Field(strict=True, gt=0, le=_LIMIT_S),
    Form("a number of seconds, more than 0 and at most 1000000000", number),
]
Megabytes = Annotated[int, Field(strict=True, ge=16), Form("a whole number, 16 or more", number)]
Deadline = Annotated[
    Annotated[float, Field(strict=True, gt=0, le=_LIMIT_S)] | None,
    Form("a number of seconds, more than 0 and at most 1000000000, or none for no deadline", number_or_none),
]

Word = Annotated[str, Field(strict=True, pattern=_WORD), Form("text without spaces")]
WordOrNone = Annotated[Annotated[str, Field(strict=True, pattern=_WORD)] | None, Form("text without spaces")]
Url = Annotated[str, Field(strict=True, pattern=_URL), Form("an http:// or https:// URL")]
UrlOrNone = Annotated[Annotated[str, Field(strict=True, pattern=_URL)] | None, Form("an http:// or https:// URL")]
Secret = Annotated[Annotated[SecretStr, Field(min_length=1)] | None, Form("text that is not empty", secret=True)]
RedisUrl = Annotated[
    Annotated[SecretStr, AfterValidator(_redis_url)] | None,
    Form("a redis://, rediss:// or unix:// URL", secret=True),
]

ProxyUrl = Annotated[
    Annotated[SecretStr, AfterValidator(_web_url)] | None,
    Form("an http:// or https:// URL", secret=True),
]

StateUrl = Annotated[
    Annotated[SecretStr, AfterValidator(_store_url)] | None,
    Form("a URL such as memory:// or redis://host:6379/0", secret=True),
]
RecordsUrl = Annotated[
    Annotated[SecretStr, AfterValidator(_store_url)] | None,
    Form("a URL such as memory://, sqlite:///path/to/file or postgresql://host/database", secret=True),
]
BlobsUrl = Annotated[
    Annotated[SecretStr, AfterValidator(_store_url)] | None,
    Form("a URL such as memory://, file:///path/to/folder or s3://bucket", secret=True),
]

Networks = Annotated[
    tuple[Annotated[str, Field(strict=True), AfterValidator(_network)], ...],
    Form("a list of addresses or networks such as '10.0.0.0/8'", comma_list),
]
Folder = Annotated[Path, BeforeValidator(_absolute), Form("the path of a directory", path=True)]
FolderOrNone = Annotated[Annotated[Path, BeforeValidator(_absolute)] | None, Form("the path of a directory", path=True)]
Folders = Annotated[
    tuple[Annotated[Path, BeforeValidator(_absolute)], ...],
    Form("a list of directories' paths", path_list, path=True),
]
Extensions = Annotated[
    tuple[Annotated[str, Field(strict=True), AfterValidator(_extension)], ...],
    Form("a list of file name extensions such as '.txt'", comma_list),
]
Hosts = Annotated[
    tuple[Annotated[str, BeforeValidator(_lower), Field(strict=True, pattern=r"^[^\s/,]+$")], ...],
    Form("a list of host names such as 'example.com'", comma_list),
]
Ports = Annotated[
    tuple[Annotated[int, Field(strict=True, ge=1, le=65535)], ...],
    Form("a list of ports from 1 to 65535", lambda text: [number(part) for part in _parts(text, ",")] or text),
]
Words = Annotated[
    tuple[Annotated[str, Field(strict=True, pattern=r"^[^\s,]+$")], ...],
    Form("a list of words without spaces", comma_list),
]
FileOrNone = Annotated[Annotated[Path, BeforeValidator(_absolute)] | None, Form("the path of a file", path=True)]
Attributes = Annotated[
    tuple[Annotated[str, Field(strict=True, pattern=r"^[^\W\d][\w.]*:[^\W\d][\w.]*$")], ...],
    Form("a list of names in modules such as 'package.module:name'", comma_list),
]

SecurityLevel = Literal["low", "medium", "high", "strict"]
SanitizationRules = Literal["standard", "strict"]
CacheBackend = Literal["memory", "redis"]
PoolType = Literal["thread", "process"]
MetricsBackend = Literal["none", "log", "prometheus"]
AuditMode = Literal["off", "on", "required"]
AuditValues = Literal["names", "digests", "redacted"]
Authentication = Literal["auto", "required", "none"]
RecordCalls = Literal["accepted", "all"]
IdempotencyKeys = Literal["declared", "all"]
HttpServer = Literal["uvicorn", "granian"]
AccessLogFormat = Literal["auto", "json", "text"]
LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]

SecurityLevelSetting = Annotated[SecurityLevel, BeforeValidator(_lower), _one_of(SecurityLevel)]
SanitizationRulesSetting = Annotated[SanitizationRules, BeforeValidator(_lower), _one_of(SanitizationRules)]
CacheBackendSetting = Annotated[CacheBackend, BeforeValidator(_lower), _one_of(CacheBackend)]
PoolTypeSetting = Annotated[PoolType, BeforeValidator(_lower), _one_of(PoolType)]
MetricsBackendSetting = Annotated[MetricsBackend, BeforeValidator(_lower), _one_of(MetricsBackend)]
AuditModeSetting = Annotated[AuditMode, BeforeValidator(_lower), _one_of(AuditMode)]
AuditValuesSetting = Annotated[AuditValues, BeforeValidator(_lower), _one_of(AuditValues)]
LogLevelSetting = Annotated[LogLevel, BeforeValidator(_upper), _one_of(LogLevel)]
AuthenticationSetting = Annotated[Authentication, BeforeValidator(_lower), _one_of(Authentication)]
RecordCallsSetting = Annotated[RecordCalls, BeforeValidator(_lower), _one_of(RecordCalls)]
IdempotencyKeysSetting = Annotated[IdempotencyKeys, BeforeValidator(_lower), _one_of(IdempotencyKeys)]
HttpServerSetting = Annotated[HttpServer, BeforeValidator(_lower), _one_of(HttpServer)]
AccessLogFormatSetting = Annotated[AccessLogFormat, BeforeValidator(_lower), _one_of(AccessLogFormat)]
