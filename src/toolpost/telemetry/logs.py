"""Writes a line for each call that ends; where lines go is for the application to configure."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final

import orjson

from toolpost.calls.errors import (
    AuthorizationRequiredError,
    ConfigurationError,
    EngineError,
    InputValidationError,
    OperationError,
    Rejected,
    SandboxError,
    ToolExecutionError,
)
from toolpost.calls.events import AttemptFailed, CallFinished, CallStarted, Event, Logged, Progressed
from toolpost.calls.redaction import any_known, hide

LOGGER_NAME: Final = "toolpost"

ATTRIBUTES: Final = ("call_id", "tool", "task_id", "user_id", "status", "elapsed_s", "error_code")
"""What every record carries beside its message; None where it is not known."""

MAX_TEXT_BYTES: Final = 4096
"""How long a message may be, and how long a traceback, of which the end is kept."""

_INFO: Final = logging.INFO
_MAX_NAME_BYTES: Final = 200
_LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_UNEXPECTED: Final = (OperationError, SandboxError, EngineError)

# What would end a line, move a terminal's cursor or turn the direction of writing.
_CONTROL: Final = [
    *range(0x20),
    *range(0x7F, 0xA0),
    0x2028,
    0x2029,
    *range(0x202A, 0x202F),
    *range(0x2066, 0x206A),
]
_ESCAPES: Final = {code: chr(code).encode("unicode_escape").decode() for code in _CONTROL}
_INDENTED: Final = _ESCAPES | {0x0A: "\n  | "}

ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]


class SecretFilter(logging.Filter):
    """Lets every record pass, with the secrets that executors of the process know hidden in it.

    The logger "toolpost" has one. Add one to the handlers of an application to have secrets hidden in what other
    libraries log, too: in the message, the traceback, the stack, and the fields of toolpost's own records.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        if not any_known():
            return True
        try:
            self._hide(record)
        except Exception:
            record.msg, record.args, record.exc_info, record.exc_text = "a record that cannot be read", (), None, None
        return True

    def _hide(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        shown = hide(message)
        if shown != message:
            record.msg, record.args = shown, ()
        if record.exc_info and record.exc_info[0] is not None and not record.exc_text:
            text = "".join(traceback.format_exception(*record.exc_info)).rstrip("\n")
            shown = hide(text)
            if shown != text:
                record.exc_text = shown
        elif record.exc_text:
            record.exc_text = hide(record.exc_text)
        if record.stack_info:
            record.stack_info = hide(record.stack_info)
        fields = getattr(record, "fields", None)
        if fields:
            record.fields = hide(fields)


# A library is silent until its application sets logging up.
logging.getLogger(LOGGER_NAME).addHandler(logging.NullHandler())
_PARTS = ("audit", "callbacks", "egress", "metrics", "oauth", "serve", "stores", "usage", "worker")
for _name in (LOGGER_NAME, *(f"{LOGGER_NAME}.{part}" for part in _PARTS)):
    logging.getLogger(_name).addFilter(SecretFilter())  # a logger's filter sees nothing of what its children write


def one_line(text: str, max_bytes: int = MAX_TEXT_BYTES) -> str:
    """text as one line of at most max_bytes of UTF-8; control characters are written as escapes."""
    if len(text) * 4 <= max_bytes and text.isprintable():
        return text
    return _cut(text[: max_bytes + 1].translate(_ESCAPES), max_bytes)


class CallLog:
    """Says how each call ended, to the logger "toolpost" unless another is given; it configures no logging.

    level is the lowest level written, whatever the logger would let through. A call that ran is written at
    INFO (unless log_execution_time is off), one answered from a cache or replayed too, a refused one at
    WARNING and a failed one at ERROR, with the traceback where the failure was not foreseen. Arguments are
    never written; a body's own exception message is, as it stands. Raises ConfigurationError for an unknown
    level.
    """

    __slots__ = ("_threshold", "logger", "writes_successes")

    def __init__(
        self, *, level: str = "INFO", log_execution_time: bool = True, logger: logging.Logger | None = None
    ) -> None:
        if level.upper() not in _LEVELS:
            raise ConfigurationError(f"log level {level!r} is not known; choose one of {', '.join(_LEVELS)}")
        self._threshold: int = getattr(logging, level.upper())
        self.logger = logging.getLogger(LOGGER_NAME) if logger is None else logger
        self.writes_successes = log_execution_time and self._threshold <= logging.INFO

    def wants(self, failed: bool) -> bool:
        """Whether it is worth calling finished: False when that would write nothing. Asked on every call."""
        return failed or (self.writes_successes and self.logger.isEnabledFor(_INFO))

    def finished(
        self,
        *,
        call_id: str,
        tool: str,
        elapsed_s: float,
        error: ToolExecutionError | None,
        source: str = "run",
        user_id: str | None = None,
        task_id: str | None = None,
    ) -> None:
        """Write how a call ended. source is run, cache or replay; error is None when it gave a value."""
        tool = one_line(tool, _MAX_NAME_BYTES)
        if error is None:
            if not self.writes_successes:
                return
            level, message, exc_info, status = *_success(tool, elapsed_s, source), None, "ok"
        elif isinstance(error, Rejected):
            level, message, exc_info, status = logging.WARNING, _refusal(tool, error), None, "rejected"
        else:
            level, message, status = logging.ERROR, _failure(tool, elapsed_s, error), "failed"
            exc_info = _origin(error) if isinstance(error, _UNEXPECTED) else None
        self._write(
            level,
            message,
            {
                "call_id": one_line(call_id, _MAX_NAME_BYTES),
                "tool": tool,
                "task_id": None if task_id is None else one_line(task_id, _MAX_NAME_BYTES),
                "user_id": None if user_id is None else one_line(user_id, _MAX_NAME_BYTES),
                "status": status,
                "elapsed_s": elapsed_s,
                "error_code": None if error is None else error.code,
            },
            exc_info,
        )

    def logged(self, event: Logged) -> None:
        """Write a line that a tool's body wrote by its context, at the level it chose."""
        level: int = getattr(logging, event.level.upper())
        extra = dict.fromkeys(ATTRIBUTES) | {
            "call_id": one_line(event.call_id, _MAX_NAME_BYTES),
            "tool": one_line(event.tool, _MAX_NAME_BYTES),
            "fields": event.fields,
        }
        self._write(level, event.message, extra, None)

    def _write(self, level: int, message: str, extra: Mapping[str, Any], exc_info: ExcInfo | None) -> None:
        logger = self.logger
        if level < self._threshold or not logger.isEnabledFor(level):
            return
        # Not logger.log: it would walk the stack for a place that says nothing, and exc_text could not be
        # given, so that a line break in an exception's message could pass for a line of the log.
        record = logger.makeRecord(
            logger.name, level, __file__, 0, one_line(hide(message)), (), exc_info, func=None, extra=extra
        )
        if exc_info is not None:
            record.exc_text = _traceback(exc_info).translate(_INDENTED)
        logger.handle(record)


def debug_log(event: Event) -> None:
    """An observer that writes at DEBUG how each call goes, from its arrival on; never its arguments or its result."""
    match event:
        case CallStarted():
            said = f"version {event.version} called by {event.user_id or 'nobody'} for task {event.task_id or 'none'}"
        case AttemptFailed():
            said = f"attempt {event.attempt} failed ({event.error.code})"
        case Progressed():
            said = f"progress {event.value:g}" + ("" if event.total is None else f" of {event.total:g}")
        case CallFinished():
            said = f"{event.status} from {event.source} after {event.attempts} attempts and {event.elapsed_s:.6f}s"
        case _:
            return
    names = (one_line(event.tool, _MAX_NAME_BYTES), one_line(event.call_id, _MAX_NAME_BYTES))
    logging.getLogger(LOGGER_NAME).debug("%s [%s]: %s", *names, one_line(said))


class JsonFormatter(logging.Formatter):
    """One JSON object a line: ts (RFC 3339, UTC), level, logger, message, ATTRIBUTES, fields, exception.

    What a record does not carry, or carries as None, is left out. Works for the records of any logger.
    """

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, tz=UTC)
        out: dict[str, Any] = {
            "ts": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": _cut(hide(record.getMessage()), MAX_TEXT_BYTES),
        }
        for name in (*ATTRIBUTES, "fields"):
            value = getattr(record, name, None)
            if value is not None and value != {}:
                out[name] = hide(value)
        if record.exc_info and record.exc_info[0] is not None:
            out["exception"] = _traceback(record.exc_info)
        elif record.exc_text:
            out["exception"] = _cut(hide(record.exc_text), MAX_TEXT_BYTES)
        try:
            return orjson.dumps(out, default=_shown, option=orjson.OPT_NON_STR_KEYS).decode()
        except TypeError:  # an integer beyond 64 bits, among a foreign record's attributes
            return json.dumps(out, default=_shown, skipkeys=True)


def _success(tool: str, elapsed_s: float, source: str) -> tuple[int, str]:
    match source:
        case "cache":
            return logging.INFO, f"Cache hit: {tool}"
        case "replay":
            return logging.INFO, f"Replayed: {tool}"
    return logging.INFO, f"{tool} executed in {elapsed_s:.4f}s"


def _refusal(tool: str, error: Rejected) -> str:
    """What was refused and why. Of arguments that do not fit only the places: the message quotes values."""
    why = error.message
    if isinstance(error, InputValidationError):
        why = ", ".join(f"{p.get('path') or '/'} {p.get('type', 'invalid')}" for p in error.errors()[:20])
    elif isinstance(error, AuthorizationRequiredError) and error.url is not None:
        why = why.replace(error.url, "a URL for this person alone")
    return f"{type(error).__name__}: {tool} refused ({error.code}): {why}"


def _failure(tool: str, elapsed_s: float, error: ToolExecutionError) -> str:
    kind = type(error).__name__
    detail = error.code if kind == error.error_type else f"{kind}, {error.code}"
    return f"{error.error_type}: {tool} failed after {elapsed_s:.4f}s ({detail}): {error.message}"


def _origin(error: ToolExecutionError) -> ExcInfo:
    """The exception that error stands for: its cause, or for one not raised yet the one being handled now."""
    origin = error.__cause__ or (sys.exception() if error.__traceback__ is None else None) or error
    return type(origin), origin, origin.__traceback__


def _traceback(exc_info: tuple[Any, BaseException | None, TracebackType | None]) -> str:
    """The traceback as text, its end when it is long: the last lines say what happened and where.

    Secrets are hidden before it is cut: the end of one would not be known for what it is.
    """
    text = hide("".join(traceback.format_exception(exc_info[1])).rstrip("\n"))
    raw = text.encode("utf-8", "backslashreplace")
    if len(raw) <= MAX_TEXT_BYTES:
        return raw.decode()
    return "..." + raw[3 - MAX_TEXT_BYTES :].decode("utf-8", "ignore")


def _shown(value: object) -> str:
    return hide(str(value))


def _cut(text: str, max_bytes: int) -> str:
    raw = text[: max_bytes + 1].encode("utf-8", "backslashreplace")
    if len(raw) <= max_bytes:
        return raw.decode()
    return raw[: max_bytes - 3].decode("utf-8", "ignore") + "..."
