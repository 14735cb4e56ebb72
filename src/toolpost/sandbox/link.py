"""The engine's link to its launcher: starts it, orders sandboxes from it, and holds those that are parked."""

from __future__ import annotations

import array
import contextlib
import fcntl
import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from toolpost.calls.errors import SandboxError
from toolpost.sandbox.box import Box, wait_for

logger = logging.getLogger("toolpost")

START_S: Final = 30.0
"""How long a launcher, or a sandbox, may take to come up."""
END: Final = b"."
"""A message of its own after the pieces of the configuration, none of which is so short."""
_ROOM_S: Final = 0.01
_LARGEST = 1 << 20
_AT_ONCE = 1 << 16
_PACKAGE = Path(__file__).resolve().parent
_BOOT = """
import sys, types
for name, path in (("toolpost", sys.argv[1]), ("toolpost.sandbox", sys.argv[2])):
    module = types.ModuleType(name)
    module.__path__ = [path]
    sys.modules[name] = module
from toolpost.sandbox import {module}
{module}.main({fd})
"""


def command(module: str, fd: int) -> list[str]:
    """Runs module.main(fd) in a bare interpreter that knows of this package what it imports, and nothing else."""
    code = _BOOT.format(module=module, fd=fd)
    flags = ["-I", "-S", "-E", "-B"]
    return [interpreter(), *flags, "-c", code, str(_PACKAGE.parent), str(_PACKAGE)]


def interpreter() -> str:
    """The interpreter that the engine's environment is based on."""
    return str(getattr(sys, "_base_executable", "") or sys.executable)


def not_run(text: str, **details: Any) -> SandboxError:
    """The error of a sandbox in which not one instruction of the program was run."""
    error = SandboxError(text, details=details)
    error.outcome = "not_run"
    return error


class DeadLinkError(SandboxError):
    """The launcher has ended, so that another must be started."""

    outcome = "not_run"


class Link:
    """A running launcher. Its methods may be called from any thread; a forked child must not use it."""

    def __init__(self, config: Mapping[str, Any], warm: int, module: str = "launcher") -> None:
        self._warm = warm
        self._relayed = bool(config.get("relayed"))
        self._changed = threading.Condition()
        self._ready: deque[Box] = deque()
        self._special: dict[int, Box] = {}
        self._failed: dict[int, dict[str, Any]] = {}
        self._refusals: list[dict[str, Any]] = []
        self._given_up: set[int] = set()
        self._pending: set[int] = set()
        self._orders = 0
        self._waiting = 0
        self._receiving = False
        self._heard_s = time.monotonic()
        self._dead = ""
        self._control, theirs = map(_above_stdio, socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        try:
            self._process = subprocess.Popen(
                command(module, theirs.fileno()),
                pass_fds=[theirs.fileno()],
                env={},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            self._control.close()
            raise not_run(f"the sandbox launcher could not be started: {error}") from error
        finally:
            theirs.close()
        _LINKS.add(self)
        try:
            self.facts = self._hello(config)
        except OSError as error:
            self.close()
            raise not_run(f"the sandbox launcher ended before it was ready: {error}") from error
        except BaseException:
            self.close()
            raise

    def _hello(self, config: Mapping[str, Any]) -> dict[str, Any]:
        said_all = json.dumps({**config, "engine": os.getpid()}).encode()
        for at in range(0, len(said_all), _AT_ONCE):
            self._control.send(said_all[at : at + _AT_ONCE])
        self._control.send(END)
        if not wait_for([self._control.fileno()], START_S):
            raise not_run(f"the sandbox launcher was not ready after {START_S:g} s")
        said = self._control.recv(_LARGEST)
        if not said:
            raise not_run("the sandbox launcher ended before it was ready")
        answer: dict[str, Any] = json.loads(said)
        if "ready" in answer:
            facts: dict[str, Any] = answer["ready"]
            return facts
        raise not_run(
            f"sandboxes cannot be made here: {answer.get('fatal')}",
            step=answer.get("step"),
            errno=answer.get("errno"),
        )

    @property
    def pid(self) -> int:
        """The launcher's."""
        return self._process.pid

    def dead(self) -> str:
        """Why it serves no more; empty while it does."""
        with self._changed:
            if not self._receiving:
                self._drain()
            return self._dead

    def look(self) -> None:
        """Take in what the launcher has said: for moments in which there is nothing to do but wait.

        A program runs meanwhile, whose time must not pass while another thread deals with the launcher.
        """
        if self._changed.acquire(blocking=False):
            try:
                if not self._receiving:
                    self._drain()
            finally:
                self._changed.release()

    def refill(self) -> None:
        """Order what is missing of the warm ones. Called after an answer was given, never before."""
        with self._changed:
            if not self._receiving:
                self._drain()
            for _ in range(self._warm - len(self._ready) - len(self._pending)):
                self._order({})

    def take(self, limits: Mapping[str, float]) -> Box:
        """A sandbox with the profile's limits, or (limits not empty) one made to order. Raises SandboxError."""
        until = time.monotonic() + START_S
        with self._changed:
            # What is parked is there without a look at what the launcher says; a look finds out whether it lives.
            if not self._receiving and (limits or not self._ready):
                self._drain()
            while not limits and not self._dead and self._ready:
                box = self._ready.popleft()
                if not box.gone():
                    box.warm = True
                    return box
                box.close()
                if not self._receiving:
                    self._drain()
            if self._dead:
                raise DeadLinkError(f"the sandbox launcher ended: {self._dead}")
            wanted = self._order(limits) if limits else None
            if not self._waiting:
                self._refusals.clear()  # of those who got another sandbox meanwhile
            self._waiting += wanted is None
            try:
                return self._wait(wanted, until)
            finally:
                self._waiting -= wanted is None

    def _wait(self, wanted: int | None, until: float) -> Box:
        while True:
            if wanted is None:
                if self._ready:
                    return self._ready.popleft()
                if self._refusals:
                    raise _refused(self._refusals.pop())
                if len(self._pending) < self._waiting:
                    self._order({})
            elif wanted in self._special:
                return self._special.pop(wanted)
            elif wanted in self._failed:
                raise _refused(self._failed.pop(wanted))
            if self._dead:
                raise DeadLinkError(f"the sandbox launcher ended while a sandbox was waited for: {self._dead}")
            left = until - time.monotonic()
            if left <= 0:
                if wanted is not None:
                    self._given_up.add(wanted)
                if self._heard_s < time.monotonic() - START_S:  # stopped, or hung: the next call starts another
                    self._dead = f"it said nothing for {START_S:g} s"
                raise not_run(f"no sandbox was made in {START_S:g} s")
            if self._receiving:
                self._changed.wait(left)
                continue
            self._receiving = True
            self._changed.release()
            try:
                wait_for([self._control.fileno()], left)
            finally:
                self._changed.acquire()
                self._receiving = False
                self._changed.notify_all()
            self._drain()

    def _order(self, limits: Mapping[str, float]) -> int:
        self._orders += 1
        number = self._orders
        if self._sent(json.dumps({"id": number, "limits": dict(limits)}).encode()) and not limits:
            self._pending.add(number)
        return number

    def _sent(self, order: bytes) -> bool:
        """Send one order. Where there is no room for it the launcher may wait for us to take in what it has said."""
        until = time.monotonic() + START_S
        while not self._dead:
            try:
                self._control.send(order, socket.MSG_DONTWAIT)
                return True
            except BlockingIOError:
                if time.monotonic() > until:
                    self._dead = f"it took no order for {START_S:g} s"
                    return False
                if not self._receiving:
                    self._drain()
                self._changed.wait(_ROOM_S)  # nobody else waits meanwhile for what is held here
            except OSError as error:
                self._dead = self._dead or str(error)
        return False

    def _drain(self) -> None:
        """Take in what the launcher has said."""
        while not self._dead:
            flags = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
            try:
                said, rights, _, _ = self._control.recvmsg(_LARGEST, socket.CMSG_SPACE(8), flags)
            except BlockingIOError:
                return
            except OSError as error:
                self._dead = str(error)
                return
            ends = descriptors(rights)
            if not said:
                self._dead = "it ended"
                return
            self._heard(json.loads(said), ends)
            if not self._pending:  # more will hardly have come
                return

    def _heard(self, answer: dict[str, Any], ends: list[int]) -> None:
        self._heard_s = time.monotonic()
        number: int = answer.get("id", 0)
        if len(ends) == 1:  # there was no room for the other among this process's descriptors
            os.close(ends.pop())
            answer = answer | {"error": "this process has too many open files (RLIMIT_NOFILE)"}
        general = number in self._pending
        self._pending.discard(number)
        if "fatal" in answer:
            self._dead = str(answer["fatal"])
        elif len(ends) == 2:
            box = Box(*ends, relayed=self._relayed)
            _BOXES.add(box)
            if general:
                self._ready.append(box)
            elif number in self._given_up:
                box.close()
            else:
                self._special[number] = box
        elif not general and number not in self._given_up:
            self._failed[number] = answer
        elif general and self._waiting:
            self._refusals.append(answer)
        else:
            logger.warning("a sandbox could not be made ready: %s", answer.get("error"))
        self._given_up.discard(number)

    def close(self) -> None:
        """End the launcher and all its sandboxes, and wait until it has removed what it made."""
        with self._changed:
            self._dead = self._dead or "it was closed"
            boxes = [*self._ready, *self._special.values()]
            self._ready.clear()
            self._special.clear()
            self._control.close()
            self._changed.notify_all()
        for box in boxes:
            box.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def forget(self) -> None:
        """In a forked child: close what belongs to the parent, and touch nothing else."""
        self._changed = threading.Condition()
        self._dead = "it belongs to another process"
        with contextlib.suppress(OSError):
            os.close(self._control.detach())


def _above_stdio(end: socket.socket) -> socket.socket:
    """The same socket at a number above 2: an engine without stdio has those free, and a child gets others there."""
    if end.fileno() > 2:
        return end
    with end:
        return socket.socket(fileno=fcntl.fcntl(end.fileno(), fcntl.F_DUPFD_CLOEXEC, 3))


def _refused(answer: Mapping[str, Any]) -> SandboxError:
    return not_run(
        f"a sandbox could not be made: {answer.get('error')}", step=answer.get("step"), errno=answer.get("errno")
    )


def descriptors(rights: list[tuple[int, int, bytes]]) -> list[int]:
    """The descriptors that came with a message."""
    out = array.array("i")
    for level, kind, data in rights:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            out.frombytes(data[: len(data) - len(data) % out.itemsize])
    return list(out)


_LINKS: weakref.WeakSet[Link] = weakref.WeakSet()
_BOXES: weakref.WeakSet[Box] = weakref.WeakSet()


def _forget_all() -> None:
    for link in list(_LINKS):
        link.forget()
    for box in list(_BOXES):
        with contextlib.suppress(OSError):
            os.close(box.channel.detach())
        with contextlib.suppress(OSError):
            os.close(box.pidfd)
        box.pidfd = -1


os.register_at_fork(after_in_child=_forget_all)
