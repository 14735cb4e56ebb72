"""Child and Job: one worker process, and one call that it is given; when which runs is left to the pool."""

from __future__ import annotations

import logging
import os
import pickle
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Literal

from toolpost.calls.context import SERVICES, ToolContext
from toolpost.calls.errors import (
    ConfigurationError,
    NotSupportedError,
    OperationError,
    OutputValidationError,
    ToolExecutionError,
    ToolTimeoutError,
)
from toolpost.calls.events import Event, Logged, Progressed
from toolpost.runners import process_worker as worker
from toolpost.runners.targets import WAY_OUT, Target, type_name
from toolpost.runners.threads import raise_from_body

logger = logging.getLogger("toolpost")

_CROSSING = tuple(
    name for name in ToolContext.__dataclass_fields__ if not name.startswith("_") and name not in (*SERVICES, "emitter")
)
_BOOT = (
    "import sys; from importlib.machinery import SourceFileLoader; scope = {'__name__': 'process_worker'}; "
    "exec(SourceFileLoader('process_worker', sys.argv[1]).get_code('process_worker'), scope); "
    "scope['main'](int(sys.argv[2]), int(sys.argv[3]))"
)


class WorkerTraceback(Exception):
    """The cause of an exception that came from a worker process: its traceback there, as text."""


class Job:
    """One call, from its queueing to its outcome; the pool's lock guards it until it is done."""

    __slots__ = ("answer", "child", "error", "on_event", "on_start", "payload", "state", "target", "wake")

    def __init__(
        self,
        target: Target,
        kwargs: Mapping[str, Any],
        on_event: Callable[[Event], None] | None,
        on_start: Callable[[], None] | None,
        wake: Callable[[], None],
    ) -> None:
        self.target = target
        self.on_event = on_event
        self.on_start = on_start
        self.wake = wake
        self.payload = self._pack(kwargs)
        self.state: Literal["queued", "running", "done", "cancelled", "stopping", "stopped"] = "queued"
        self.child: Child | None = None
        self.answer: tuple[bytes, bytes] | None = None
        self.error: BaseException | None = None

    def _pack(self, kwargs: Mapping[str, Any]) -> bytes:
        plain: dict[str, Any] = {}
        contexts: dict[str, tuple[dict[str, Any], bool]] = {}
        for name, value in kwargs.items():
            if isinstance(value, ToolContext):
                if self.on_event is None and _is_heard(value):
                    self.on_event = partial(_retell, value)
                contexts[name] = ({f: getattr(value, f) for f in _CROSSING}, self.on_event is not None)
            else:
                plain[name] = value
        try:
            return pickle.dumps((self.target.key, plain, contexts), protocol=5)
        except Exception as error:
            what = next((f"argument {n!r} of type {type_name(v)}" for n, v in plain.items() if not _pickles(v)), None)
            raise NotSupportedError(
                f"{what or 'what the context has in auth or extras'} cannot be sent to the worker process "
                f"of {self.target.name} ({error}); pass plain values, {WAY_OUT}"
            ) from error

    def tell(self, listener: Callable[[], None] | None) -> None:
        """Call a listener; one that breaks is logged and the call goes on."""
        if listener is not None:
            try:
                listener()
            except Exception:
                logger.exception("a listener failed while %s ran", self.target.name)

    def fail(self, error: BaseException) -> None:
        """End this call with an error."""
        self.state = "done"
        self.error = error

    def buried(self, code: int) -> None:
        """The worker that had this call is gone."""
        self.child = None
        if self.state == "stopping":
            self.state = "stopped"
        elif self.state == "running":
            self.fail(self.error or OperationError(f"{self.target.name}: its worker process {_end_of(code)}"))

    def late(self, timeout_s: float | None, sure: bool, max_workers: int) -> ToolTimeoutError:
        """The error of a call that did not end in time; sure: its process is known to be gone."""
        limit = "the deadline" if timeout_s is None else f"{timeout_s:g} s"
        if self.state == "cancelled":
            error = ToolTimeoutError(
                f"no worker process was free for {self.target.name} within {limit}, so it never ran; "
                f"allow more than {max_workers} (max_workers) or more time"
            )
            error.outcome = "not_run"
        elif sure:
            error = ToolTimeoutError(f"{self.target.name} did not end within {limit} and was killed")
            error.outcome = "stopped"
        else:
            error = ToolTimeoutError(
                f"{self.target.name} did not end within {limit} and was killed, but the system still holds "
                "its process; look for a hanging device or network file system"
            )
            error.outcome = "unknown"
        return error

    def outcome(self) -> Any:
        """What the body returned; raises what it raised, or why there is no answer."""
        error, self.error = self.error, None
        try:
            if error is not None:
                raise error
            assert self.answer is not None
            kind, payload = self.answer
            if kind == worker.RESULT:
                return self._value(payload)
            raise_from_body(self._raised(*pickle.loads(payload)))
        finally:
            del error

    def _value(self, payload: bytes) -> Any:
        try:
            return pickle.loads(payload)
        except Exception as error:
            raise OutputValidationError(
                f"{self.target.name}: its result cannot be read from its worker process ({error}); "
                f"return plain values, {WAY_OUT}"
            ) from error

    def _raised(self, stage: str, kind: str, message: str, text: str, itself: bytes | None) -> BaseException:
        """The exception for a failure told by a worker."""
        name = self.target.name
        error = _unpickled(itself)
        if stage == "result":
            error = OutputValidationError(
                f"{name}: a result of type {kind} cannot be sent from its worker process ({message}); "
                f"return plain values, {WAY_OUT}"
            )
        elif stage == "arguments":
            error = NotSupportedError(
                f"{name}: its arguments cannot be read in its worker process ({kind}: {message}); "
                f"pass plain values, {WAY_OUT}"
            )
        elif stage == "load" and not isinstance(error, ToolExecutionError):
            error = ConfigurationError(
                f"{name} cannot be loaded in a worker process ({kind}: {message}); "
                f"make its module importable by name, {WAY_OUT}"
            )
        elif error is None:
            error = OperationError(f"{kind}: {message}" if message else kind)
        error.__cause__ = WorkerTraceback(text)
        return error


class Child:
    """A worker process, seen from the parent."""

    def __init__(self, process: subprocess.Popen[bytes], channel: socket.socket, lifeline: int) -> None:
        self.process = process
        self.channel = channel
        self.job: Job | None = None
        self.known: set[int] = set()
        self.unsent: memoryview | None = None
        self.watched = True
        self.outdated = False
        self.idle_since = self.kill_at = 0.0
        self._lifeline = lifeline
        self._told: tuple[list[str], list[str]] | None = None
        self._inbox = bytearray()
        self._reaped = False

    @classmethod
    def start(cls) -> Child:
        """A new interpreter, never a fork of this process, whose threads may hold any lock."""
        ours, theirs = socket.socketpair()
        lifeline_theirs, lifeline = os.pipe()
        try:
            ours.setblocking(False)
            fds = (theirs.fileno(), lifeline_theirs)
            process = subprocess.Popen(
                [
                    sys.executable,
                    *subprocess._args_from_interpreter_flags(),  # type: ignore[attr-defined]
                    *("-P", "-c", _BOOT, worker.__file__, *map(str, fds)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=_stderr(),
                pass_fds=fds,
                start_new_session=True,
            )
        except BaseException:
            ours.close()
            os.close(lifeline)
            raise
        finally:
            theirs.close()
            os.close(lifeline_theirs)
        return cls(process, ours, lifeline)

    def frames_for(self, job: Job) -> bytes:
        """The call, and before it what the child does not know yet."""
        frames: list[bytes] = []
        paths = (sys.path, sys.argv)
        if paths != self._told:
            self._told = (list(sys.path), list(sys.argv))
            frames += _frame(worker.PATHS, pickle.dumps(self._told))
        target = job.target
        if target.key not in self.known:
            self.known.add(target.key)
            load = (target.module, target.qualname, target.depth, target.owner, target.main)
            frames += _frame(worker.TARGET, pickle.dumps((target.key, target.takes_mapping, *load)))
        frames += _frame(worker.CALL, job.payload)
        return b"".join(frames)

    def send_rest(self) -> bool:
        """Send what did not fit before; whether nothing is left."""
        if self.unsent is not None:
            try:
                self.unsent = self.unsent[self.channel.send(self.unsent) :] or None
            except BlockingIOError:
                return False
            except OSError:
                self.unsent = None  # the child is gone, as reading will show
        return self.unsent is None

    def receive(self) -> Iterator[tuple[bytes, bytes]]:
        """The frames that have come whole. Raises EOFError or OSError when the child has closed its side."""
        chunk = self.channel.recv(1 << 18)
        if not chunk:
            raise EOFError
        inbox, head = self._inbox, worker.HEAD
        inbox += chunk
        while len(inbox) >= head.size:
            kind, size = head.unpack_from(inbox)
            end = head.size + size
            if len(inbox) < end:
                return
            with memoryview(inbox) as view:
                payload = bytes(view[head.size : end])
            del inbox[:end]
            yield kind, payload

    def kill(self) -> None:
        """Kill the whole process group. Until it is reaped its number cannot be another's."""
        if not self._reaped:
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                return

    def silence(self) -> None:
        """Kill a child that lives on although it cannot be talked to."""
        self.kill()
        if self.job is not None and self.job.error is None:
            self.job.error = OperationError(
                f"{self.job.target.name}: its worker process lost its channel and was killed; "
                "a body must not close file descriptors that it did not open"
            )

    def has_exited(self) -> bool:
        """Whether the process has ended, which leaves it to be reaped."""
        try:
            return os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:
            return True  # someone else reaped it

    def reap(self) -> int:
        """Take the exit code of a process that has ended; its number may then become another's."""
        self._reaped = True
        return self.process.wait()

    def close(self) -> None:
        """Close this side of the channel and of the lifeline."""
        self.channel.close()
        os.close(self._lifeline)


def _frame(kind: bytes, payload: bytes) -> tuple[bytes, bytes]:
    return worker.HEAD.pack(kind, len(payload)), payload


def _stderr() -> int:
    """Where a worker's standard output goes: the parent's own may be a protocol or a table."""
    try:
        os.fstat(2)
    except OSError:
        return subprocess.DEVNULL
    return 2


def _end_of(code: int) -> str:
    if code >= 0:
        return f"exited with code {code} before the body returned"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was ended by {name}" + (", as happens when memory runs out" if code == -signal.SIGKILL else "")


def _unpickled(itself: bytes | None) -> BaseException | None:
    if itself is None:
        return None
    try:
        error = pickle.loads(itself)
    except Exception:
        return None
    return error if isinstance(error, BaseException) else None


def _is_heard(context: ToolContext) -> bool:
    return context._emit is not None or context._logs is not None


def _retell(context: ToolContext, event: Event) -> None:
    """Tell through the caller's context what a body told through the worker's."""
    if isinstance(event, Logged):
        context.log(event.message, event.level, **event.fields)
    elif isinstance(event, Progressed):
        context.progress(event.value, event.total, event.message)


def _pickles(value: object) -> bool:
    try:
        pickle.dumps(value, protocol=5)
    except Exception:
        return False
    return True
