"""What Shell.Run and Code.Python have in common: lines as they come, what a result says, files beside it."""

from __future__ import annotations

import codecs
import json
import threading
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

from toolpost import (
    Clock,
    ConfigurationError,
    OutputValidationError,
    OverloadedError,
    SandboxError,
    Sandboxes,
    SandboxResult,
    SandboxSession,
    ToolContext,
)

SandboxesOrMaker = Sandboxes | Callable[[], Sandboxes]

_CLOCK: Final = Clock()
GRACE_S: Final = 10.0
"""What a call may take beyond its program: a turn, the start, taking files out."""
MARGIN_S: Final = 0.5
"""How long before the call's own deadline its program is ended, so that the result says by which limit."""
LINES_AT_ONCE: Final = 20
LINES_PER_S: Final = 10.0
"""How many lines are told as they come: a flood would drown whoever listens, and the result has it all."""
MAX_LINE_CHARS: Final = 1000
MAX_VALUE_CHARS: Final = 20_000
MAX_SESSION_CHARS: Final = 64
MAX_LEFT_BEHIND: Final = 20
MAX_REASON_CHARS: Final = 300


class Programs:
    """Runs the programs of a tool, in Sandboxes of the author's own or in some that each executor has made."""

    def __init__(self, sandboxes: SandboxesOrMaker) -> None:
        given: object = sandboxes
        if not isinstance(given, Sandboxes) and not callable(given):
            raise ConfigurationError(f"give Sandboxes, or a function that makes them, not {type(given).__name__}")
        self._given = sandboxes
        first = sandboxes if isinstance(sandboxes, Sandboxes) else sandboxes()
        self.profile = first.profile
        self.total_s = self.profile.limits.wall_s + GRACE_S

    def sandboxes(self, ctx: ToolContext) -> Sandboxes:
        """Those to run in: the author's own, or the executor's, which it closes when it is closed."""
        if isinstance(self._given, Sandboxes):
            return self._given
        return ctx.shared(self._given, self._given)

    async def run(
        self,
        ctx: ToolContext,
        argv: list[str] | None,
        code: str | None,
        *,
        files: Mapping[str, str],
        session: str | None,
        timeout_s: float | None,
        **more: Any,
    ) -> dict[str, Any]:
        """Run one program, and say how it ended. Raises SandboxError, with outcome not_run where nothing can have."""
        sandboxes, lines = self.sandboxes(ctx), Lines(ctx)
        left_s = ctx.remaining_s()
        try:
            kept = None if session is None else await sandboxes.open_session(_scoped(session, ctx))
            is_new = None if kept is None else not kept.begun
            more.update(files=files, session=kept, timeout_s=timeout_s, on_output=lines.take)
            more["deadline_s"] = None if left_s is None else max(MARGIN_S, left_s - MARGIN_S)
            if self.profile.network.allow:
                more["gateway"] = ctx.gateway(self.profile.network)
            if argv is not None:
                result = await sandboxes.run(argv, **more)
            else:
                result = await sandboxes.run_python(code or "", **more)
        except OverloadedError as error:
            refused = SandboxError(error.message, tool=ctx.tool)
            refused.outcome, refused.retryable = "not_run", True
            raise refused from error
        except SandboxError as error:
            error.tool = ctx.tool  # nothing but the program would have run
            raise
        lines.end()
        _tell_usage(ctx, result)
        left_behind = _some([*_give_artifacts(ctx, result, files), *result.left_behind])
        value: dict[str, Any] = {} if code is None else {"value": _cut(result.value)}
        if self.profile.network.allow:
            value["refused_hosts"] = [] if result.usage.network is None else sorted(result.usage.network.denied)
        return {**said_of(result, left_behind, ctx), **_session_of(session, kept, is_new), **value}


def _cut(value: str | None) -> str | None:
    if value is None or len(value) <= MAX_VALUE_CHARS:
        return value
    return f"{value[:MAX_VALUE_CHARS]}... ({len(value) - MAX_VALUE_CHARS} characters left out)"


def _some(left_behind: list[str]) -> list[str]:
    """The first of what was left behind, in short: a program may have made thousands of such files."""
    shown = [one if len(one) <= MAX_REASON_CHARS else f"{one[:MAX_REASON_CHARS]}..." for one in left_behind]
    more = len(shown) - MAX_LEFT_BEHIND
    return shown if more <= 0 else [*shown[:MAX_LEFT_BEHIND], f"and {more} more"]


def _scoped(session: str, ctx: ToolContext) -> str:
    """The session's name among those of one caller: nobody gets into another's."""
    return json.dumps([ctx.tenant_id, ctx.user_id, ctx.session_id, session])


def _session_of(name: str | None, kept: SandboxSession | None, is_new: bool | None) -> dict[str, Any]:
    if kept is None:
        return {"session": None, "session_new": None}
    return {"session": name, "session_new": is_new}


def said_of(result: SandboxResult, left_behind: list[str], ctx: ToolContext) -> dict[str, Any]:
    """What a model is told of a program that has ended, whatever the way."""
    out, err = result.stdout, result.stderr
    given = ctx.artifacts
    return {
        "status": result.status,
        "exit_code": result.exit_code,
        "signal": result.signal,
        "limit": None if result.limit is None else str(result.limit),
        "stdout": out.text,
        "stderr": err.text,
        "stdout_bytes": out.total,
        "stderr_bytes": err.total,
        "truncated": bool(out.omitted or err.omitted),
        "artifacts": [{"name": name, "bytes": len(data)} for name, data in given.items()],
        "left_behind": left_behind,
        "elapsed_s": round(result.usage.wall_s, 3),
    }


def _tell_usage(ctx: ToolContext, result: SandboxResult) -> None:
    used = result.usage
    ctx.used(
        cpu_s=used.cpu_s,
        peak_memory_bytes=used.peak_memory_bytes,
        written_bytes=used.output_bytes + used.disk_bytes,
        denied_syscalls=None if used.denied_syscalls is None else dict(used.denied_syscalls),
        exit_signal=result.signal,
    )


def _give_artifacts(ctx: ToolContext, result: SandboxResult, files: Mapping[str, str]) -> list[str]:
    """Give what the program made, and outputs that were cut; what could not be given, and why."""
    left: list[str] = []
    whole = {}
    for stream, output in (("stdout", result.stdout), ("stderr", result.stderr)):
        if output.omitted:
            name = f"{stream}.txt" if f"{stream}.txt" not in result.artifacts else f"{stream}-whole.txt"
            whole[name] = output.whole
    for name, data in (*whole.items(), *result.artifacts.items()):
        if name in files and files[name].encode() == data:
            continue  # it was brought in, and is as it was
        try:
            ctx.artifact(name, data)
        except OutputValidationError as error:
            left.append(error.message)
    return left


class Lines:
    """Tells lines of output as they come, as progress of the call: a burst of them, then so many a second."""

    def __init__(self, ctx: ToolContext) -> None:
        self._ctx = ctx
        self._lock = threading.Lock()
        self._decoders = {name: codecs.getincrementaldecoder("utf-8")("replace") for name in ("stdout", "stderr")}
        self._rests = {"stdout": "", "stderr": ""}
        self._seen = self._skipped = 0
        self._tokens, self._at = float(LINES_AT_ONCE), _CLOCK.monotonic()

    def take(self, stream: Literal["stdout", "stderr"], data: bytes) -> None:
        """A piece of output, in whichever thread."""
        with self._lock:
            text = self._rests[stream] + self._decoders[stream].decode(data)
            shown = LINES_AT_ONCE + 1  # no more of one piece can be told: a flood is counted, and not looked at
            *lines, rest = text.split("\n", shown)
            left_out = rest.count("\n")
            self._rests[stream] = (rest.rpartition("\n")[2] if left_out else rest)[: MAX_LINE_CHARS + 1]
            for line in lines:
                self._tell(line)
            self._seen += left_out
            self._skipped += left_out

    def end(self) -> None:
        """What came after the last line, and how many were not told."""
        with self._lock:
            for stream, decoder in self._decoders.items():
                rest = self._rests[stream] + decoder.decode(b"", final=True)
                if rest:
                    self._tell(rest)
            self._tell_skipped()

    def _tell(self, line: str) -> None:
        self._seen += 1
        now = _CLOCK.monotonic()
        self._tokens = min(float(LINES_AT_ONCE), self._tokens + (now - self._at) * LINES_PER_S)
        self._at = now
        if self._tokens < 1.0:
            self._skipped += 1
            return
        self._tokens -= 1.0
        self._tell_skipped()
        line = line.rstrip("\r")
        shown = line if len(line) <= MAX_LINE_CHARS else f"{line[:MAX_LINE_CHARS]}..."
        self._ctx.progress(self._seen, message=shown)

    def _tell_skipped(self) -> None:
        if self._skipped:
            self._ctx.progress(self._seen, message=f"... {self._skipped} lines are not shown here ...")
            self._skipped = 0


# -- declaring --------------------------------------------------------------------------------------------------------


def limits_of(programs: Programs) -> str:
    """The limits, as a model is told of them."""
    limits = programs.profile.limits
    network = ", ".join(programs.profile.network.allow)
    return (
        f"At most {limits.wall_s:g} s, {limits.memory_bytes >> 20} MiB of memory, {limits.processes} processes and "
        f"{limits.disk_bytes >> 20} MiB of files; "
        + (f"by proxy it reaches {network} and nothing else" if network else "there is no network")
        + "."
    )


def common_parameters(programs: Programs) -> dict[str, Any]:
    """Parameters of both tools."""
    return {
        "stdin": {
            "type": "string",
            "default": "",
            "description": "What the program reads from its standard input.",
        },
        "files": {
            "type": "object",
            "additionalProperties": {"type": "string"},
            "maxProperties": 100,
            "default": {},
            "description": "Files to put into its folder first: relative path -> text.",
        },
        "timeout_s": {
            "type": ["number", "null"],
            "exclusiveMinimum": 0,
            "maximum": programs.profile.limits.wall_s,
            "default": None,
            "description": f"Seconds that it may take; null means {programs.profile.limits.wall_s:g}.",
        },
        "session": {
            "type": ["string", "null"],
            "default": None,
            "minLength": 1,
            "maxLength": MAX_SESSION_CHARS,
            "pattern": "^[A-Za-z0-9_.-]+$",
            "description": "A name of yours: calls with the same one share a folder; null means a fresh one.",
        },
    }


RETURNS: Final[dict[str, Any]] = {
    "status": {
        "enum": ["ok", "exit", "signal", "limit"],
        "description": "ok: exit code 0. exit: another. signal: it died of one. limit: it was ended at a limit.",
    },
    "exit_code": {"type": ["integer", "null"]},
    "signal": {"type": ["string", "null"], "description": "As SIGSEGV."},
    "limit": {"type": ["string", "null"], "description": "Which limit ended it, and after how long."},
    "stdout": {"type": "string", "description": "Its head and its tail where it is long."},
    "stderr": {"type": "string"},
    "stdout_bytes": {"type": "integer", "minimum": 0},
    "stderr_bytes": {"type": "integer", "minimum": 0},
    "truncated": {
        "type": "boolean",
        "description": "Whether stdout or stderr has less than all; the artifact of that name has it whole.",
    },
    "artifacts": {
        "type": "array",
        "items": {
            "type": "object",
            "properties": {"name": {"type": "string"}, "bytes": {"type": "integer"}},
            "required": ["name", "bytes"],
        },
        "description": "Files that it left in its folder, which are handed on beside this result.",
    },
    "left_behind": {"type": "array", "items": {"type": "string"}, "description": "What was not handed on, and why."},
    "elapsed_s": {"type": "number", "minimum": 0},
    "session": {"type": ["string", "null"]},
    "session_new": {
        "type": ["boolean", "null"],
        "description": "Whether the session began with this call, so that no files of earlier ones were there.",
    },
}


def returned(programs: Programs, more: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of a result."""
    properties = {**RETURNS, **more}
    if programs.profile.network.allow:
        properties["refused_hosts"] = {
            "type": "array",
            "items": {"type": "string"},
            "description": "Hosts, with their ports, that it asked for and may not reach.",
        }
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
