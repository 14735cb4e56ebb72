"""One job in one sandbox, from the engine's side: its input, output, time and end, and the result of it."""

from __future__ import annotations

import contextlib
import math
import os
import select
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

from toolpost.calls.errors import SandboxError
from toolpost.sandbox.backend import Job, Passage
from toolpost.sandbox.box import Box, wait_for
from toolpost.sandbox.frames import Frames, packed
from toolpost.sandbox.link import START_S, descriptors, not_run
from toolpost.sandbox.outcome import SandboxTraffic
from toolpost.sandbox.profile import SandboxLimits

GRACE_S: Final = 2.0
"""How long a sandbox that was told to stop may take to report before it is killed."""
_PIECE = 1 << 16
_FLAGS: Final = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
_RIGHTS: Final = socket.CMSG_SPACE(20)
"""Room for the program's three pipes, the socket that leads to the proxy, and the way to the parked program itself."""
_LONGEST_NAME: Final = 8192
"""Bytes that an artifact takes in a report beside its content: a name of emoji is three times as long there."""
_ENDINGS: Final = frozenset({"status", "spent", "refused"})
"""One of these is in every report."""
_NAMES: Final[tuple[Literal["stdout", "stderr"], ...]] = ("stdout", "stderr")


class Conversation:
    """Runs a job in a sandbox, which was made with the limits given.

    Afterwards it holds what came out: outputs, the report, and why it was stopped. meanwhile is called once, while the
    program runs.
    """

    def __init__(
        self,
        box: Box,
        job: Job,
        env: Mapping[str, str],
        limits: SandboxLimits,
        meanwhile: Callable[[], None] | None = None,
    ) -> None:
        self._box, self._job, self._env = box, job, env
        self._meanwhile = meanwhile
        self._tighter = {
            name: getattr(job.limits, field)
            for name, field in (("FSIZE", "file_bytes"), ("NOFILE", "open_files"))
            if getattr(job.limits, field) != getattr(limits, field)
        }
        if job.limits.cpu_s < limits.cpu_s:
            self._tighter["CPU"] = max(1, math.ceil(job.limits.cpu_s))
        limits = job.limits
        self._frames = Frames(limits.artifact_bytes + limits.artifacts * _LONGEST_NAME + (4 << 20))
        self._out = bytearray()
        self._stdin = memoryview(job.stdin)
        self._ends: list[int] = []
        self._poll = select.poll()
        self.kept: list[bytearray] = [bytearray(), bytearray()]
        self.totals = [0, 0]
        self.report: dict[str, Any] | None = None
        self.artifacts = b""
        self.stopped: Literal["wall_s", "output_bytes", "cancelled"] | None = None
        self.lost: str | None = None
        self.began = self.ended = self._until = time.monotonic()
        self._killed = False
        self._untold = 0
        self._listener = -1
        self._way_in = -1
        self._begun = False
        self.told = False
        self.traffic: SandboxTraffic | None = None

    def run(self) -> None:
        """Talk until the program has ended. Raises SandboxError where the sandbox was lost or never came up."""
        passage: Passage | None = None
        try:
            self._until_ready()
            if self._listener >= 0 and self._job.gateway is not None:
                listener, self._listener = self._listener, -1
                passage = self._job.gateway.open(listener)
            if self.stopped is None:
                self._talk()
        finally:
            if passage is not None:
                self.traffic = passage.close()
            if self._listener >= 0:
                os.close(self._listener)
            if self._way_in >= 0:
                os.close(self._way_in)
            for fd in self._ends:
                with contextlib.suppress(OSError):
                    os.close(fd)

    def _until_ready(self) -> None:
        """Wait for the sandbox's first word, which brings the program's three pipes."""
        channel, cancel = self._box.channel, self._job.cancel
        until = time.monotonic() + START_S
        watched = [channel.fileno()] + ([cancel.fileno()] if cancel is not None else [])
        said, self._box.early = self._box.early, b""
        self._ends, self._box.early_ends = self._box.early_ends, []
        while True:
            if cancel is not None and cancel.cancelled:
                self.stopped = "cancelled"
                # A session's next job will want what was said until now.
                self._box.early = self._frames.rest() + said
                self._ends, self._box.early_ends = [], self._ends
                return
            try:
                if not said:
                    said, rights, _, _ = channel.recvmsg(_PIECE, _RIGHTS, _FLAGS)
                    self._ends += descriptors(rights)
            except BlockingIOError:
                left = until - time.monotonic()
                if left <= 0:
                    raise not_run(f"the sandbox was not ready after {START_S:g} s") from None
                wait_for(watched, left)
                continue
            except OSError as error:
                raise not_run(f"the sandbox was lost before the program began: {error}") from error
            if not said:
                raise not_run("the sandbox ended before the program began")
            self._frames.feed(said)
            said = b""
            head = self._frames.next()
            if head is None:
                continue
            if "error" in head[0]:
                raise not_run(f"a sandbox could not be made: {head[0]['error']}")
            if head[0].get("direct") and self._ends:
                self._way_in = self._ends.pop()
            if len(self._ends) not in (3, 4):
                raise not_run("the sandbox did not hand over the program's pipes")
            if len(self._ends) == 4:
                self._listener = self._ends.pop()
            return

    def _talk(self) -> None:
        job, channel = self._job, self._box.channel.fileno()
        self.began = time.monotonic()
        self._until = self.began + job.limits.wall_s
        self.told = True
        straight = self._straight()
        self._out += self._order(begun=time.monotonic() if straight else None)
        self._untold = len(self._out)
        self._poll.register(channel, select.POLLIN | select.POLLOUT)
        stdin, *outputs = self._ends
        for fd in self._ends:
            os.set_blocking(fd, False)
        for fd in outputs:
            self._poll.register(fd, select.POLLIN)
        self._send(channel)
        if straight:
            self._begin(straight)
        if self._stdin:
            self._poll.register(stdin, select.POLLOUT)
        else:
            self._close(stdin)
        cancel = job.cancel
        if cancel is not None:
            self._poll.register(cancel.fileno(), select.POLLIN)
        if self._meanwhile is not None:
            self._meanwhile()
        while self.report is None and self.lost is None:
            left = self._until - time.monotonic()
            if left <= 0:
                self._late()
                continue
            for fd, event in self._poll.poll(left * 1000 + 1):
                if fd == channel:
                    if event & select.POLLOUT:
                        self._send(channel)
                    if event & ~select.POLLOUT:
                        self._receive()
                elif fd == stdin:
                    self._feed(stdin)
                elif cancel is not None and fd == cancel.fileno():
                    self._poll.unregister(fd)
                    self._stop("cancelled")
                else:
                    self._read(fd, outputs.index(fd))
        self.ended = time.monotonic()
        self._drain(outputs)

    def _late(self) -> None:
        """The time of this phase is over: first the program is told to end, then its sandbox killed."""
        if self.stopped is None:
            self._stop("wall_s")
        elif not self._killed:
            self._killed = True
            self._box.kill()
            self._until = time.monotonic() + GRACE_S
        else:
            self.lost = "its sandbox could not be ended"

    def _straight(self) -> bytes:
        """The frame that tells the parked program itself what to run; empty where its sandbox must do that.

        A pipe takes a frame of this size as a whole or not at all. What was run before in a session counts, and files
        must be there first: both only the sandbox can see to.
        """
        if self._way_in < 0 or self._job.session is not None or self._job.files:
            return b""
        code = self._code()
        frame = packed({**self._what(len(code)), "rlimits": self._tighter}, code)
        return frame if len(frame) <= select.PIPE_BUF else b""

    def _begin(self, frame: bytes) -> None:
        """Let the program run, of which its sandbox has been told."""
        if self._out:
            raise not_run("the sandbox did not take its order")
        way_in, self._way_in = self._way_in, -1
        try:
            os.write(way_in, frame)
        except OSError as error:
            raise not_run(f"the process that was to become the program had ended: {error}") from error
        finally:
            os.close(way_in)
        self._begun = True

    def _code(self) -> bytes:
        return b"" if self._job.code is None else self._job.code.encode("utf-8", "surrogatepass")

    def _what(self, size: int) -> dict[str, Any]:
        job = self._job
        return {
            "argv": None if job.argv is None else list(job.argv),
            "code": None if job.code is None else size,
            "env": dict(self._env),
        }

    def _order(self, *, begun: float | None) -> bytes:
        """The frame that tells the sandbox what to run, or what it needs to know of a program that begins just now."""
        job = self._job
        code = b"" if begun else self._code()
        head = {
            **({"code": None} if begun else self._what(len(code))),
            "begun": begun,
            "files": [[name, len(data)] for name, data in job.files.items()],
            "collect": job.collect,
            "artifacts": job.limits.artifacts,
            "artifact_bytes": job.limits.artifact_bytes,
            "cpu_s": job.limits.cpu_s,
            "rlimits": self._tighter,
            "keep": job.session is not None,
        }
        return packed(head, b"".join([code, *job.files.values()]))

    def _stop(self, why: Literal["wall_s", "output_bytes", "cancelled"]) -> None:
        """Tell the sandbox to end the program and report."""
        if self.stopped is not None:
            return
        self.stopped = why
        self._until = time.monotonic() + GRACE_S
        self._out += packed({"stop": True})
        self._poll.modify(self._box.channel.fileno(), select.POLLIN | select.POLLOUT)

    def _send(self, channel: int) -> None:
        try:
            while self._out:
                sent = self._box.channel.send(self._out[: 1 << 18])
                self._untold -= sent
                del self._out[:sent]
        except BlockingIOError:
            return
        except OSError as error:
            if self._untold > 0:  # of a job that is not there as a whole nothing is run
                raise not_run(f"the sandbox was lost before it took the program: {error}") from error
            # What it said before it ended may still be there to read.
            self._out.clear()
            if self.report is None and self.stopped is None:
                self._receive(f"{error}")
        self._poll.modify(channel, select.POLLIN)

    def _receive(self, otherwise: str | None = None) -> None:
        try:
            piece, rights, _, _ = self._box.channel.recvmsg(1 << 18, _RIGHTS, _FLAGS)
            self._box.early_ends += descriptors(rights)
        except BlockingIOError:
            return
        except ConnectionResetError as error:
            if self.stopped is not None:
                self.lost = "its sandbox ended before it heard that it was to stop"
                return
            if self._begun:
                self.lost = f"its sandbox ended: {error}"
                return
            # What was sent to it was never read, all of it: no program can have begun.
            raise not_run(f"the sandbox was lost before it took the program: {error}") from error
        except OSError as error:
            piece, otherwise = b"", str(error)
        if not piece:
            self.lost = otherwise or "its sandbox ended without a report"
            return
        self._frames.feed(piece)
        try:
            got = self._frames.next()
        except ValueError as error:
            self.lost = f"its sandbox sent no report but {error}"
            self._box.kill()
            return
        if got is None:
            return
        if "error" in got[0]:
            self.lost = str(got[0]["error"])[:1000]
        elif got[0].keys() & _ENDINGS:
            self.report, self.artifacts = got
            self._box.early = self._frames.rest()  # of a session's next program
        else:
            self.lost = "its sandbox sent a report that says nothing"

    def _feed(self, stdin: int) -> None:
        try:
            self._stdin = self._stdin[os.write(stdin, self._stdin[:_PIECE]) :]
        except BlockingIOError:
            return
        except OSError:  # the program reads no more
            self._stdin = self._stdin[:0]
        if not self._stdin:
            self._poll.unregister(stdin)
            self._close(stdin)

    def _close(self, fd: int) -> None:
        self._ends.remove(fd)
        os.close(fd)

    def _read(self, fd: int, which: int) -> bool:
        """Take in a piece of output. Whether there may be more."""
        try:
            piece = os.read(fd, _PIECE)
        except BlockingIOError:
            return False
        if not piece:
            with contextlib.suppress(KeyError):
                self._poll.unregister(fd)
            return False
        self.totals[which] += len(piece)
        room = self._job.limits.output_bytes - len(self.kept[0]) - len(self.kept[1])
        if room > 0:
            piece = piece[:room]
            self.kept[which] += piece
            if self._job.on_output is not None:
                self._job.on_output(_NAMES[which], piece)
        if sum(self.totals) > self._job.limits.output_bytes:
            if self.report is None:
                self._stop("output_bytes")
            elif self.stopped is None:  # it had ended before the last of it was read: as much too much as any
                self.stopped = "output_bytes"
        return True

    def _drain(self, outputs: list[int]) -> None:
        """Take in what lies in the pipes still. Nobody writes to them any more, so that ends."""
        until = time.monotonic() + GRACE_S
        for which, fd in enumerate(outputs):
            while self._read(fd, which) and time.monotonic() < until:
                pass

    def lost_error(self) -> SandboxError:
        """What to raise where there is no report and nobody had told the program to end."""
        error = SandboxError(f"the program was lost: {self.lost}")
        error.outcome = "unknown"
        return error
