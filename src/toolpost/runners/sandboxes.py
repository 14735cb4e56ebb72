"""Sandboxes: runs programs of one profile, each in a sandbox of its own, from any thread and any event loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeVar, Unpack

from toolpost.calls.clock import SYSTEM_CLOCK, Clock
from toolpost.calls.errors import (
    ConfigurationError,
    OverloadedError,
    SandboxError,
    ToolTimeoutError,
)
from toolpost.runners.sandbox_proxy import SandboxProxy
from toolpost.sandbox.backend import Backend, BackendFactory, Cancel, Job
from toolpost.sandbox.backends import AUTO, choose, reports_of
from toolpost.sandbox.jobs import Options, job_of, python_of
from toolpost.sandbox.outcome import BackendReport, SandboxResult
from toolpost.sandbox.profile import Sandbox
from toolpost.sandbox.runs import Run, give_back
from toolpost.sandbox.sessions import Kept, SandboxSession, SessionBlock, Sessions
from toolpost.sandbox.turns import Turns
from toolpost.sandbox.workers import Workers
from toolpost.security.egress import EgressGuard
from toolpost.security.secrets import SecretProvider

T = TypeVar("T")

CLOSE_S: Final = 5.0
"""How long close waits for programs that it has cancelled, before their back end ends them itself."""
DEFAULT_ROOT: Final = "/tmp/tool-exec"


class Sandboxes:
    """Runs programs that nobody trusts, each in a fresh sandbox with what its profile says.

    profile: what programs may see, reach and use up. root: a folder for run-time files, by default SANDBOX_ROOT, or
    /tmp/tool-exec. backend: "auto" (the first that holds to all that the profile requires: native, bubblewrap, then
    those of plugins by name), a name, or a BackendFactory. warm: interpreters held ready. max_running: programs at a
    time (four for each processor); more wait their turn. max_sessions, session_idle_s, session_life_s: how many
    sandboxes are kept between programs, and for how long. egress and secrets: the guard that the proxy of a profile
    with a network asks, by default one of all public hosts at the ports that the profile names, and providers of
    secrets by name beside the built-in ones. Programs of an executor's tools go by what that executor has.

    Nothing is started before it is needed. A forked child starts with none of its parent's. Close it when done.
    """

    def __init__(
        self,
        profile: Sandbox | None = None,
        *,
        root: str | os.PathLike[str] | None = None,
        backend: str | BackendFactory = AUTO,
        warm: int = 2,
        max_running: int | None = None,
        max_sessions: int = 16,
        session_idle_s: float = 600.0,
        session_life_s: float = 3600.0,
        egress: EgressGuard | None = None,
        secrets: Mapping[str, SecretProvider] | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        if profile is not None and not isinstance(profile, Sandbox):
            raise ConfigurationError(f"Sandboxes takes a Sandbox, got {type(profile).__name__}")
        if not isinstance(backend, str) and not callable(backend):
            raise ConfigurationError(f"backend must be a name or callable as (profile, root, warm), got {backend!r}")
        self.profile = profile if profile is not None else Sandbox()
        named = os.environ.get("TOOL_EXECUTOR_SANDBOX_ROOT") or os.environ.get("SANDBOX_ROOT") or DEFAULT_ROOT
        self.root = Path(os.path.abspath(named if root is None else root))
        self._wanted, self._warm = backend, _whole("warm", warm, 0)
        most = 4 * (os.cpu_count() or 1) if max_running is None else max_running
        self._max_running, self._max_sessions = _whole("max_running", most, 1), _whole("max_sessions", max_sessions, 1)
        self._idle_s = _more_than_0("session_idle_s", session_idle_s)
        self._life_s = _more_than_0("session_life_s", session_life_s)
        self._egress, self._secrets = egress, secrets
        self._clock = clock
        self._closed = False
        self._empty()
        _all.add(self)

    def _empty(self) -> None:
        """Begin with nothing: when made, and in a forked child, where what was started is the parent's."""
        self._lock = threading.Lock()  # guards what runs
        self._starting = threading.Lock()
        self._backend: Backend | None = None
        network = self.profile.network
        self._proxy = SandboxProxy.alone(network, self._egress, self._secrets) if network.allow else None
        self._running: set[Cancel] = set()
        self._turns = Turns(self._max_running, self._clock)
        self._workers = Workers("toolpost-sandbox")
        self._sessions = Sessions(self._max_sessions, self._idle_s, self._life_s, self._clock, self._end_session)

    # -- running ------------------------------------------------------------------------------------------------------

    async def run(self, argv: Sequence[str], **more: Unpack[Options]) -> SandboxResult:
        """Run a program by its argument list, and give how it ended, whatever that was.

        stdin: bytes or text. files: relative path -> bytes or text, put into its work folder first. env: variables on
        top of the profile's. limits: a SandboxLimits, of which what is tighter than the profile's holds; timeout_s: the
        same of wall_s. deadline_s: seconds for everything, waiting for a turn included. session: a SandboxSession to
        run in. collect: whether files of the work folder are taken out; in a session, those that are new or changed.
        on_output: called with "stdout" or "stderr" and bytes as they come, in a thread that is not the caller's.
        gateway: what a profile's network leads through, such as ToolContext.gateway() gives, in place of the own proxy.

        A task that is cancelled has the program killed and waits until it is gone. Raises SandboxError where no sandbox
        can be had, ToolTimeoutError where no turn came in time, InputValidationError for arguments that cannot be.
        """
        return await self._awaited(job_of(self.profile, argv, None, more), more)

    async def run_python(self, code: str, **more: Unpack[Options]) -> SandboxResult:
        """Run a Python program by its text; value has the repr of its last expression. Otherwise as run does."""
        return await self._awaited(job_of(self.profile, None, python_of(code), more), more)

    def run_blocking(self, argv: Sequence[str], **more: Unpack[Options]) -> SandboxResult:
        """run for callers that block; on_output is called in the calling thread."""
        return self._blocked(job_of(self.profile, argv, None, more), more)

    def run_python_blocking(self, code: str, **more: Unpack[Options]) -> SandboxResult:
        """run_python for callers that block."""
        return self._blocked(job_of(self.profile, None, python_of(code), more), more)

    # -- sessions -----------------------------------------------------------------------------------------------------

    async def open_session(self, name: str | None = None) -> SandboxSession:
        """The session of that name, made where there is none; without a name always a new one.

        Its files stay until it is closed, has been idle for session_idle_s, or is session_life_s old, and all its
        programs together have the limits of one. Raises OverloadedError where max_sessions are open.
        """
        return await self.off_loop(lambda: self.open_session_blocking(name))

    def open_session_blocking(self, name: str | None = None) -> SandboxSession:
        """open_session for callers that block."""
        self._refuse_if_closed()
        return SandboxSession(self, self._sessions.open(name))

    def session(self) -> SessionBlock:
        """A session for the length of a block: `async with sandboxes.session() as session`, or a plain with."""
        return SessionBlock(self)

    # -- what is there ------------------------------------------------------------------------------------------------

    def report(self) -> tuple[BackendReport, ...]:
        """What each back end that may be chosen can hold to here. It starts nothing, and may block for a moment."""
        return reports_of(self._wanted, self.profile, self.root)

    @property
    def backend(self) -> str | None:
        """The name of the one that runs programs, None before the first."""
        return None if self._backend is None else self._backend.name

    @property
    def running(self) -> int:
        """How many programs run now."""
        return self._turns.taken

    @property
    def waiting(self) -> int:
        """How many wait their turn."""
        return self._turns.waiting

    def start(self) -> None:
        """Choose and start the back end now, rather than with the first program. Raises SandboxError."""
        self._ready()
        if self._proxy is not None:
            self._proxy.start()

    def close(self) -> None:
        """End what runs, and leave nothing behind. Calls made afterwards raise OverloadedError."""
        with self._lock:
            self._closed = True
            running = list(self._running)
        for cancel in running:
            cancel.cancel()
        until = self._clock.monotonic() + CLOSE_S
        while self._running and self._clock.monotonic() < until:
            threading.Event().wait(0.01)
        with self._starting:
            backend, self._backend = self._backend, None
        try:
            if backend is not None:
                backend.close()
        finally:
            self._sessions.close_all("the sandboxes were closed")
            self._workers.close()
            if self._proxy is not None:
                self._proxy.close()

    async def aclose(self) -> None:
        """close, without blocking the event loop."""
        await self.off_loop(self.close)

    def __enter__(self) -> Sandboxes:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    async def __aenter__(self) -> Sandboxes:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    # -- inside -------------------------------------------------------------------------------------------------------

    async def _awaited(self, job: Job, more: Options) -> SandboxResult:
        session, deadline_s = more.get("session"), more.get("deadline_s")
        until = self._until(deadline_s)
        taken: list[Turns] = []
        try:
            for turn in self._turns_of(session):
                if not await turn.take(self._left_s(until)):
                    raise self._no_turn(turn, deadline_s)
                taken.append(turn)
            run = self._prepared(job, session, until, taken)
        except BaseException:
            give_back(taken)
            self._sessions.freed()
            raise
        return await self._in_thread(run)

    def _blocked(self, job: Job, more: Options) -> SandboxResult:
        session, deadline_s = more.get("session"), more.get("deadline_s")
        until = self._until(deadline_s)
        taken: list[Turns] = []
        try:
            for turn in self._turns_of(session):
                if not turn.take_blocking(self._left_s(until)):
                    raise self._no_turn(turn, deadline_s)
                taken.append(turn)
            run = self._prepared(job, session, until, taken)
        except BaseException:
            give_back(taken)
            self._sessions.freed()
            raise
        return run()

    async def _in_thread(self, run: Run) -> SandboxResult:
        """Run in a worker; a cancellation has the program killed, and goes on only when it is gone."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[SandboxResult | BaseException] = loop.create_future()

        def work() -> None:
            outcome: SandboxResult | BaseException
            try:
                outcome = run()
            except BaseException as raised:
                outcome = raised
            _settle(loop, future, outcome)

        try:
            self._submit(work)
        except BaseException:
            run.forget()
            raise
        cancelled: asyncio.CancelledError | None = None
        while not future.done():
            try:
                await asyncio.shield(future)
            except asyncio.CancelledError as error:
                cancelled = error
                run.cancel.cancel()
            except BaseException:  # the coroutine is closed: nobody can wait any more
                run.cancel.cancel()
                raise
        outcome = future.result()
        try:
            if cancelled is not None:
                raise cancelled
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome
        finally:
            del outcome, cancelled  # their tracebacks hold this frame

    async def off_loop(self, work: Callable[[], T]) -> T:
        """Do what blocks in a worker. It is done even where the task is cancelled meanwhile."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[tuple[T | None, BaseException | None]] = loop.create_future()

        def worked() -> None:
            try:
                _settle(loop, future, (work(), None))
            except BaseException as raised:
                _settle(loop, future, (None, raised))

        self._submit(worked)
        value, raised = await asyncio.shield(future)
        if raised is not None:
            raise raised
        return value  # type: ignore[return-value]

    def _submit(self, work: Callable[[], object]) -> None:
        try:
            self._workers.submit(work)
        except RuntimeError as error:  # the system has no thread left
            raise OverloadedError(f"no thread for a sandbox can be started ({error}); try again later") from error

    def _turns_of(self, session: SandboxSession | None) -> tuple[Turns, ...]:
        """The session's own first, so that who waits for it holds up nobody else."""
        if session is None:
            return (self._turns,)
        if session._sandboxes is not self:
            raise ConfigurationError("the session is of other Sandboxes")
        if session.ended is not None:
            raise _gone(session._kept)
        return (session._kept.turn, self._turns)

    def _prepared(self, job: Job, session: SandboxSession | None, until: float | None, taken: list[Turns]) -> Run:
        kept = None if session is None else session._kept
        left_s = self._left_s(until)
        if left_s is not None and left_s <= 0:
            raise self._no_turn(taken[-1], left_s)
        if kept is not None:
            life_s = kept.ends_s - self._clock.monotonic()
            if kept.ended is not None or life_s <= 0:
                raise _gone(kept)
            left_s = life_s if left_s is None else min(left_s, life_s)
        limits = job.limits if left_s is None else job.limits.tightened(wall_s=left_s)
        try:
            cancel = Cancel()
        except OSError as error:
            raise OverloadedError(f"a program cannot be run now ({error.strerror}); try again later") from error
        with self._lock:
            if not self._closed:
                self._running.add(cancel)
        if cancel not in self._running:
            cancel.close()
            self._refuse_if_closed()
        job = replace(job, limits=limits, cancel=cancel, gateway=job.gateway or self._proxy)
        return Run(self, job, kept, cancel, taken, until)

    def _ready(self) -> Backend:
        """The back end, started. One that could not be started is asked anew the next time."""
        with self._starting:
            self._refuse_if_closed()
            if self._backend is None:
                backend = choose(self._wanted, self.profile, self.root, self._warm)
                try:
                    backend.start()
                except BaseException:
                    backend.close()
                    raise
                self._backend = backend
            return self._backend

    def _end_session(self, made: str) -> None:
        backend = self._backend
        if backend is not None:
            backend.close_session(made)

    def _until(self, deadline_s: float | None) -> float | None:
        self._refuse_if_closed()
        return None if deadline_s is None else self._clock.monotonic() + deadline_s

    def _left_s(self, until: float | None) -> float | None:
        return None if until is None else max(0.0, until - self._clock.monotonic())

    def _no_turn(self, turn: Turns, deadline_s: float | None) -> ToolTimeoutError:
        where = "another program of the session runs" if turn is not self._turns else f"{turn.taken} programs run"
        error = ToolTimeoutError(
            f"{where}, and no turn came in {deadline_s or 0.0:.3g} s, so the program was not run; allow more time, "
            "or more of them (max_running)"
        )
        error.outcome = "not_run"
        return error

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise OverloadedError("the sandboxes are closed; make others to run more programs")


def _gone(kept: Kept) -> SandboxError:
    why = kept.ended or "it is as old as a session may be"
    error = SandboxError(f"the session has ended: {why}; open another", details={"ended": why})
    error.outcome = "not_run"
    return error


def _settle(loop: asyncio.AbstractEventLoop, future: asyncio.Future[Any], outcome: Any) -> None:
    def resolve() -> None:
        if not future.done():
            future.set_result(outcome)

    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
        loop.call_soon_threadsafe(resolve)


def _whole(name: str, value: object, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigurationError(f"Sandboxes: {name} must be a whole number, {least} or more, got {value!r}")
    return value


def _more_than_0(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e9:
        raise ConfigurationError(f"Sandboxes: {name} must be a number of seconds, more than 0, got {value!r}")
    return float(value)


_all: weakref.WeakSet[Sandboxes] = weakref.WeakSet()


def _empty_all() -> None:
    for sandboxes in list(_all):
        sandboxes._sessions.forget("it is one of the process that this one was forked from")
        sandboxes._empty()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_empty_all)

__all__ = ["SandboxSession", "Sandboxes"]
