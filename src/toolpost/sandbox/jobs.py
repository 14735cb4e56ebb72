"""Jobs: what a caller asks for, checked, as a back end takes it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, TypedDict

from toolpost.calls.errors import ConfigurationError, InputValidationError
from toolpost.sandbox.backend import Gateway, Job, OnOutput
from toolpost.sandbox.profile import Sandbox, SandboxLimits, check_env

if TYPE_CHECKING:
    from toolpost.sandbox.sessions import SandboxSession

logger = logging.getLogger("toolpost")

MAX_ARGUMENTS: Final = 4096
MAX_ARGUMENT_BYTES: Final = 100_000
"""The kernel takes 131,072 bytes in one argument, and two million in all."""
MAX_ARGUMENTS_BYTES: Final = 1_000_000
MAX_FILES: Final = 1000
MAX_PATH_PARTS: Final = 32


class Options(TypedDict, total=False):
    """What a program may be given besides itself; Sandboxes.run says what each of them means."""

    stdin: bytes | str
    files: Mapping[str, bytes | str]
    env: Mapping[str, str]
    limits: SandboxLimits | None
    timeout_s: float | None
    deadline_s: float | None
    collect: bool
    session: SandboxSession | None
    on_output: OnOutput | None
    gateway: Gateway | None


def job_of(profile: Sandbox, argv: Sequence[str] | None, code: str | None, more: Options) -> Job:
    """The job of what run, or run_python, was given. Raises InputValidationError."""
    unknown = sorted(more.keys() - Options.__optional_keys__)
    if unknown:
        known = ", ".join(sorted(Options.__optional_keys__))
        raise TypeError(f"{unknown[0]!r} is no option of a program; choose from {known}")
    if argv is not None and profile.syscalls == "strict":
        raise InputValidationError("the profile's syscalls are 'strict', which starts no program; run Python code")
    return Job(
        argv=None if argv is None else _argv(argv),
        code=code,
        stdin=_bytes("stdin", more.get("stdin", b"")),
        files=_files(more.get("files") or {}, profile.limits),
        env=_env(more.get("env") or {}),
        limits=_limits(profile.limits, more.get("limits"), more.get("timeout_s")),
        collect=bool(more.get("collect", True)),
        on_output=_watcher(more.get("on_output")),
        gateway=more.get("gateway") if profile.network.allow else None,
    )


def _watcher(told: OnOutput | None) -> OnOutput | None:
    """What is told of output. It only watches: when it breaks that is logged, once, and the program goes on."""
    if told is None:
        return None
    watching = told
    broken = False

    def tell(stream: Literal["stdout", "stderr"], data: bytes) -> None:
        nonlocal broken
        try:
            watching(stream, data)
        except Exception:
            if not broken:
                logger.exception("on_output failed; the program goes on")
            broken = True

    return tell


def python_of(code: object) -> str:
    """Text of a Python program. Raises InputValidationError for what is none."""
    if not isinstance(code, str):
        raise InputValidationError(f"code must be the text of a Python program, got {type(code).__name__}")
    if "\0" in code:
        raise InputValidationError("code must not have null characters, which no Python program can")
    _bytes("code", code)
    return code


def _argv(given: Sequence[str]) -> tuple[str, ...]:
    argv = tuple(given) if isinstance(given, (list, tuple)) else ()
    if not argv or not all(isinstance(one, str) for one in argv):
        raise InputValidationError("argv must be a list of text with the program first, as in ['ls', '-l']")
    if not argv[0]:
        raise InputValidationError("argv must name a program first, as in ['ls', '-l']")
    sizes = [len(_bytes("argv", one)) for one in argv]
    if any("\0" in one for one in argv):
        raise InputValidationError("argv must not have null characters, which no program can be given")
    if len(argv) > MAX_ARGUMENTS or max(sizes) > MAX_ARGUMENT_BYTES or sum(sizes) > MAX_ARGUMENTS_BYTES:
        raise InputValidationError(
            f"argv is too long: at most {MAX_ARGUMENTS} of {MAX_ARGUMENT_BYTES} bytes each and {MAX_ARGUMENTS_BYTES} "
            "in all; put what is longer into a file or stdin"
        )
    return argv


def _bytes(name: str, value: object) -> bytes:
    if isinstance(value, str):
        try:
            return value.encode()
        except UnicodeEncodeError:
            raise InputValidationError(f"{name} has half a surrogate pair, which no program can read") from None
    if not isinstance(value, (bytes, bytearray, memoryview)):
        raise InputValidationError(f"{name} must be bytes or text, got {type(value).__name__}")
    return bytes(value)


def _files(files: Mapping[str, Any], limits: SandboxLimits) -> dict[str, bytes]:
    if not isinstance(files, Mapping):
        raise InputValidationError(f"files must map paths to contents, got {type(files).__name__}")
    if len(files) > min(MAX_FILES, limits.inodes):
        raise InputValidationError(f"files has {len(files)}; at most {min(MAX_FILES, limits.inodes)} fit")
    made = {_path(path): _bytes(f"files[{path!r:.100}]", content) for path, content in files.items()}
    total = sum(map(len, made.values()))
    largest = max(map(len, made.values()), default=0)
    if total > limits.disk_bytes or largest > limits.file_bytes:
        raise InputValidationError(
            f"files have {total} bytes, the largest {largest}; {limits.disk_bytes} fit, and {limits.file_bytes} in one"
        )
    return made


def _path(path: object) -> str:
    """A path that stays in the work folder however it is put there."""
    if not isinstance(path, str):
        raise InputValidationError(f"files: a path is text, got {type(path).__name__}")
    parts = path.split("/")
    if (
        not path
        or "\0" in path
        or any(part in ("", ".", "..") or len(part.encode("utf-8", "replace")) > 255 for part in parts)
        or len(parts) > MAX_PATH_PARTS
    ):
        raise InputValidationError(f"files: {path!r:.100} is no plain relative path such as 'data/in.csv'")
    _bytes("files", path)
    return path


def _env(env: Mapping[str, str]) -> dict[str, str]:
    try:
        check_env(env)
    except ConfigurationError as error:
        raise InputValidationError(error.message) from error
    for value in env.values():
        _bytes("env", value)
    return dict(env)


def _limits(limits: SandboxLimits, tighter: SandboxLimits | None, timeout_s: float | None) -> SandboxLimits:
    if tighter is not None:
        if not isinstance(tighter, SandboxLimits):
            raise InputValidationError(f"limits must be SandboxLimits, got {type(tighter).__name__}")
        limits = limits.tightened(**{name: getattr(tighter, name) for name in SandboxLimits.__dataclass_fields__})
    if timeout_s is not None:
        if isinstance(timeout_s, bool) or not isinstance(timeout_s, (int, float)) or not timeout_s > 0:
            raise InputValidationError(f"timeout_s must be a number of seconds, more than 0, got {timeout_s!r}")
        limits = limits.tightened(wall_s=float(timeout_s))
    return limits
