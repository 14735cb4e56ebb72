"""The back end of this kernel: namespaces, seccomp, Landlock and control groups, without any program but Python."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import secrets
import sys
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from toolpost.calls.errors import SandboxError
from toolpost.sandbox import folder
from toolpost.sandbox.backend import Job
from toolpost.sandbox.box import Box
from toolpost.sandbox.conversation import Conversation
from toolpost.sandbox.ending import result_of
from toolpost.sandbox.enforcement import report_of
from toolpost.sandbox.link import DeadLinkError, Link, not_run
from toolpost.sandbox.outcome import BackendReport, LimitHit, SandboxResult
from toolpost.sandbox.packages import mounts_of
from toolpost.sandbox.profile import CLOSED_ENV, PACKAGES, PROXY_ENV, PROXY_PORT, WORK, Sandbox, SandboxLimits
from toolpost.sandbox.reaper import launcher_name, reap

CGROUP_PARENT: Final = "toolpost"
CGROUP_SWITCH = True
"""False where control groups are to be left alone, as if the host had none."""
_MADE_TO_ORDER: Final = ("memory_bytes", "processes", "cpus", "disk_bytes", "inodes")
"""Limits that a sandbox has from its beginning; a job with tighter ones cannot have one that is parked."""


class NativeBackend:
    """Runs jobs in sandboxes that this kernel offers, as root or as an ordinary user."""

    name = "native"
    launcher = "launcher"
    """The module that makes its sandboxes."""

    def __init__(self, profile: Sandbox, root: Path, warm: int) -> None:
        self._profile, self._root, self._warm = profile, Path(root), warm
        self._packages = mounts_of(profile.packages)
        self._lock = threading.Lock()
        self._link: Link | None = None
        self._report: BackendReport | None = None
        self._sessions: dict[str, _Session] = {}
        _BACKENDS.add(self)
        self._closed = False

    # --- the contract

    def report(self) -> BackendReport:
        """Tried, not guessed: a launcher is started and makes one sandbox, unless one is running already."""
        with self._lock:
            if self._report is None:
                self._report = self._tried()
            return self._report

    def start(self) -> None:
        with self._lock:
            self._closed = False
            self._root = folder.make(self._root)
            reap(self._root, CGROUP_PARENT)
            self._running().refill()

    def run(self, job: Job) -> SandboxResult:
        called = time.monotonic()
        if job.argv is not None and self._profile.syscalls == "strict":
            raise not_run("the profile's syscalls are 'strict', which starts no program; run Python code, or 'default'")
        if self._profile.network.allow and job.gateway is None:
            raise not_run("the profile allows hosts, and there is no gateway to them; run it by Sandboxes")
        size = sum(map(len, job.files.values()))
        if size > job.limits.disk_bytes:
            raise not_run(f"input files of {size} bytes are more than disk_bytes allows, {job.limits.disk_bytes}")
        if job.session is not None:
            return self._run_in_session(job.session, job, called)
        link, box = self._taken(self._special_limits(job))
        try:
            return self._talk(box, job, called, link.look)
        finally:
            box.end()
            # Not before the answer is there: making sandboxes takes processors from the program.
            link.refill()

    def open_session(self) -> str:
        link, box = self._taken({})
        name = secrets.token_hex(8)
        session = _Session(box)
        with self._lock:
            self._sessions[name] = session
        link.refill()
        return name

    def close_session(self, session: str) -> None:
        with self._lock:
            kept = self._sessions.pop(session, None)
        if kept is not None:
            kept.box.kill()
            with kept.turn:
                kept.box.end()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            sessions, self._sessions = list(self._sessions.values()), {}
            link, self._link = self._link, None
        for session in sessions:
            session.box.kill()
            with session.turn:
                session.box.end()
        if link is not None:
            link.close()
            reap(self._root, CGROUP_PARENT)  # where it was killed, and could not do so itself

    # --- how

    def _talk(self, box: Box, job: Job, called: float, meanwhile: Callable[[], None] | None = None) -> SandboxResult:
        network = PROXY_ENV if self._profile.network.allow else {}
        env = {**CLOSED_ENV, **network, **self._profile.env, **job.env}
        talk = Conversation(box, job, env, self._profile.limits, meanwhile)
        talk.run()
        report = self._report
        enforced = report.enforced if report is not None else {}
        return result_of(talk, job, backend=self.name, called=called, warm=box.warm, enforced=enforced)

    def _run_in_session(self, name: str, job: Job, called: float) -> SandboxResult:
        with self._lock:
            session = self._sessions.get(name)
        if session is None:
            raise not_run(f"there is no session {name}: it was closed, or its sandbox was lost")
        with session.turn:
            spent = session.spent(job.limits)
            if spent is not None:
                enforced = self._report.enforced if self._report is not None else {}
                return SandboxResult(status="limit", limit=spent, backend=self.name, warm=True, enforced=enforced)
            try:
                result = self._talk(session.box, session.rest_of(job), called)
            except BaseException as error:  # an on_output that broke too: nobody watches the program any more
                kept = isinstance(error, SandboxError) and error.details.get("session") == "kept"
                if not kept or session.box.gone():
                    self._lose(name, session)
                raise
            if session.box.killed or session.box.gone():
                self._lose(name, session)
            session.box.warm = True
            return session.count(result, job.limits)

    def _lose(self, name: str, session: _Session) -> None:
        """Forget a session whose sandbox is lost. Its turn is held."""
        with self._lock:
            self._sessions.pop(name, None)
        session.box.kill()
        session.box.end()

    def _special_limits(self, job: Job) -> dict[str, Any]:
        """Those limits of a job for which a sandbox must be made; none where a parked one fits."""
        own, wanted = self._profile.limits, job.limits
        if all(getattr(own, name) == getattr(wanted, name) for name in _MADE_TO_ORDER):
            return {}
        return {name: getattr(wanted, name) for name in _MADE_TO_ORDER}

    def _taken(self, limits: dict[str, Any]) -> tuple[Link, Box]:
        """A sandbox, and the launcher that made it, which is started anew where it has died."""
        link = self._link
        if link is not None:
            with contextlib.suppress(DeadLinkError):
                return link, link.take(limits)
        with self._lock:
            link = self._running()
        return link, link.take(limits)

    def forget(self) -> None:
        """In a forked child: nothing of the parent's is used, and a lock that another thread held is held no more."""
        self._lock = threading.Lock()
        self._link = None
        self._sessions = {}

    def _running(self) -> Link:
        if self._closed:
            raise not_run("the sandboxes are closed")
        if self._link is not None and not self._link.dead():
            return self._link
        if self._link is not None:
            self._link.close()
            self._link = None
            lost, self._sessions = list(self._sessions.values()), {}
            for session in lost:
                if session.turn.acquire(blocking=False):  # where a program ran, who runs it closes the sandbox
                    session.box.close()
                    session.turn.release()
            reap(self._root, CGROUP_PARENT)
        link = self._start_link(self._warm)
        report = self._reported(link.facts)
        self._report = report
        lacks = report.lacks(self._profile.require)
        if lacks:
            link.close()
            said = "; ".join(f"{control} ({missing.why}; {missing.way_out})" for control, missing in lacks.items())
            raise not_run(f"this host cannot hold to what the sandbox requires: {said}")
        self._link = link
        return link

    def _start_link(self, warm: int) -> Link:
        self._root = folder.make(self._root)
        return Link(self._config(), warm, self.launcher)

    def _tried(self) -> BackendReport:
        try:
            link = self._start_link(0)
        except SandboxError as error:
            return self._reported(None, error)
        try:
            box = link.take({})
            try:
                job = Job(code="", limits=self._profile.limits, collect=False)
                talk = Conversation(box, job, {}, job.limits)
                talk.run()
                if talk.report is None:
                    raise talk.lost_error()
            finally:
                box.close()
            return self._reported(link.facts)
        except SandboxError as error:
            return self._reported(link.facts, error)
        finally:
            link.close()
            with contextlib.suppress(OSError):
                self._root.rmdir()  # only where report made it, or nothing else is in it

    def _reported(self, facts: dict[str, Any] | None, error: SandboxError | None = None) -> BackendReport:
        return report_of(self.name, facts, self._profile, error)

    def _config(self) -> dict[str, Any]:
        name = launcher_name()
        profile = self._profile
        mounts = [*self._packages, *((one.source, one.target) for one in profile.mounts)]
        return {
            "id": name,
            "folder": str(self._root.resolve() / name),
            "work": WORK,
            "limits": dataclasses.asdict(profile.limits),
            "syscalls": profile.syscalls,
            "network": PROXY_PORT if profile.network.allow else 0,
            "mounts": mounts,
            "package_paths": [PACKAGES] if self._packages else [],
            "preload": list(profile.preload),
            "prefix": os.path.realpath(sys.base_prefix),
            "cgroup_parent": CGROUP_PARENT,
            "cgroups": CGROUP_SWITCH,
            "use_landlock": True,
            "notify": True,
            "distinct": True,
            "direct": True,
            "relayed": False,
        }


_BACKENDS: weakref.WeakSet[NativeBackend] = weakref.WeakSet()


def _forget_all() -> None:
    for backend in list(_BACKENDS):
        backend.forget()


os.register_at_fork(after_in_child=_forget_all)


class _Session:
    """A sandbox that is kept. turn is held while a program runs in it."""

    def __init__(self, box: Box) -> None:
        self.box = box
        self.turn = threading.Lock()
        self._used: dict[str, float] = {"wall_s": 0.0, "output_bytes": 0}

    def spent(self, limits: SandboxLimits) -> LimitHit | None:
        """The limit at which the programs until now have arrived together, so that no other may run."""
        for name, used in self._used.items():
            allowed = getattr(limits, name)
            if used >= allowed:
                return LimitHit(name=name, allowed=allowed, after_s=0.0)
        return None

    def rest_of(self, job: Job) -> Job:
        """The job with what its limits leave after the programs until now; the sandbox itself counts the others."""
        rest = {name: getattr(job.limits, name) - used for name, used in self._used.items()}
        return dataclasses.replace(job, limits=dataclasses.replace(job.limits, **rest))

    def count(self, result: SandboxResult, limits: SandboxLimits) -> SandboxResult:
        """Add what a program used. Where it was ended at a rest, its result names the whole."""
        self._used["wall_s"] += result.usage.wall_s
        self._used["output_bytes"] += result.usage.output_bytes
        hit = result.limit
        if hit is None or hit.name not in self._used:
            return result
        allowed = getattr(limits, hit.name)
        self._used[hit.name] = max(self._used[hit.name], allowed)
        return dataclasses.replace(result, limit=dataclasses.replace(hit, allowed=allowed))
