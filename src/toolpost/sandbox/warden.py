"""Process 1 of one sandbox: makes it, keeps a confined program parked, runs jobs in it, and reports how they ended."""

from __future__ import annotations

import array
import contextlib
import errno
import math
import os
import select
import signal
import socket
from typing import Any, Final, NoReturn

from toolpost.sandbox import cgroups, frames, kernel, loopback
from toolpost.sandbox.collect import Collector, Seen, empty
from toolpost.sandbox.inputs import put_files
from toolpost.sandbox.running import SAMPLE, Run
from toolpost.sandbox.template import USER, step, write

NAMESPACES: Final = (
    kernel.CLONE_NEWUSER | kernel.CLONE_NEWNS | kernel.CLONE_NEWPID | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS
)
"""The one of control groups comes later: it shows the group that a process was in when it was made."""
_LOCKED = kernel.MS_NOSUID | kernel.MS_NODEV
_BY_USER: Final = {"max_inotify_instances": 16, "max_inotify_watches": 1024}


def main(config: dict[str, Any], channel: int, group: cgroups.Group | None, go: int, life: int) -> NoReturn:
    """Begin in namespaces that are new and empty of rules, as process 1 of them. channel leads to the engine."""
    try:
        signal.set_wakeup_fd(-1)
        # Process 1 gets from its namespace only signals for which it has a handler, and the interpreter has one.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        kernel.close_all_but([0, 1, 2, channel, go, life, *(group.hold() if group else ())])
        if os.read(go, 1) != b"g":
            os._exit(1)
        os.close(go)
        with step("make a namespace of control groups"):
            kernel.unshare(kernel.CLONE_NEWCGROUP)
        enter(config, life)
        serve(config, channel, group)
    except BaseException as error:
        with contextlib.suppress(OSError):
            frames.write(channel, frames.packed({"error": str(error) or type(error).__name__}))
        os._exit(1)


def enter(config: dict[str, Any], life: int) -> None:
    """Become the sandbox's user and make its own places; capabilities are still held afterwards."""
    with step("become the sandbox's user"):
        os.setresgid(USER, USER, USER)
        os.setresuid(USER, USER, USER)
        kernel.death_signal(signal.SIGKILL)
        ended = select.poll()
        ended.register(life, select.POLLIN)
        if ended.poll(0):
            os._exit(1)  # the launcher ended before the line above
        os.close(life)
        os.setsid()
        kernel.dumpable()
    limits = config["limits"]
    with step("make the work folder"):
        size = f"size={limits['disk_bytes']},nr_inodes={limits['inodes'] + 4}"
        kernel.mount("tmpfs", "/tmp", "tmpfs", _LOCKED, f"{size},mode=0700,uid={USER},gid={USER}")
        for name, places in (("work", [config["work"]]), ("shm", ["/dev/shm"]), ("tmp", ["/var/tmp", "/tmp"])):
            os.mkdir(f"/tmp/{name}", 0o700)
            for place in places:
                kernel.mount(f"/tmp/{name}", place, None, kernel.MS_BIND)
        kernel.mount_attributes("/dev/shm", nosuid=True, nodev=True, noexec=True)
    with step("name the host"):
        socket.sethostname("sandbox")
    with step("mount /proc"):
        _proc()
    if config["network"]:
        with step("bring up the loopback"):
            loopback.up()


def _proc() -> None:
    """Show the sandbox's own processes; where the host masks its /proc and so forbids that, show nothing."""
    flags = _LOCKED | kernel.MS_NOEXEC
    try:
        kernel.mount("proc", "/proc", "proc", flags)
    except OSError as error:
        if error.errno != errno.EPERM:
            raise
        kernel.mount("tmpfs", "/proc", "tmpfs", flags | kernel.MS_RDONLY, "size=0,nr_inodes=1")
        return
    write("/proc/sys/user/max_user_namespaces", "0")
    # What the kernel counts by user: without limits of its own, a program uses up what the engine's user may have.
    for name, most in _BY_USER.items():
        with contextlib.suppress(FileNotFoundError):
            write(f"/proc/sys/user/{name}", str(most))


def _close_proc() -> int | None:
    """Leave of /proc only processes, read-only. Returns a descriptor by which this process's place can be changed."""
    try:
        score = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return None
    # A second mount over the first, in which the descriptor above is open for writing and so may not become read-only.
    flags = kernel.MS_RDONLY | _LOCKED | kernel.MS_NOEXEC
    for options in ("subset=pid,hidepid=invisible", "hidepid=2"):
        try:
            kernel.mount("proc", "/proc", "proc", flags, options)
            return score
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EBUSY):
                raise
    os.close(score)  # Linux before 5.8 has one /proc for all mounts of a namespace
    kernel.mount_attributes("/proc", readonly=True)
    return None


def serve(config: dict[str, Any], channel: int, group: cgroups.Group | None) -> NoReturn:
    """Give up every privilege, then run jobs: one, or as many as come where the first says that it is kept."""
    with step("close /proc"):
        score = _close_proc()
    with step("give up privileges"):
        kernel.drop_capabilities()
        kernel.no_new_privileges()
        kernel.not_dumpable()
    keep(config, channel, group, score)


def keep(config: dict[str, Any], channel: int, group: cgroups.Group | None, score: int | None) -> NoReturn:
    """Run jobs until the last. score is a descriptor by which this process's place can be changed, who has no other."""
    woken, wake = os.pipe()
    os.set_blocking(woken, False)
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    keeper = Warden(config, channel, group, score, woken)
    while keeper.one():
        pass
    # Ending takes a processor for a while, which the engine needs for the report: it closes the channel when it has it.
    with contextlib.suppress(OSError):
        os.read(channel, 1)
    os._exit(0)


class Warden:
    """Runs one job after the other, each in a program of its own; what all used together is counted."""

    def __init__(
        self,
        config: dict[str, Any],
        channel: int,
        group: cgroups.Group | None,
        score: int | None,
        woken: int,
    ) -> None:
        self._config, self._channel, self._group = config, channel, group
        self._score, self._woken = score, woken
        self._said = frames.Frames(1 << 40)
        self._known: Seen = set()
        self._cpu_s = 0.0
        self._way: socket.socket | None = None
        if group is not None:
            group.keep_open()
        if config["network"]:
            with step("listen for the proxy"):
                self._way = loopback.listen(config["network"])

    def one(self) -> bool:
        """Park a program, wait for a job, run it, report. Whether another may follow."""
        with step("start the program's process"):
            run = Run(self._config, self._score)
        head = {"ready": True, "denied": run.denied is not None}
        if self._way is not None:
            loopback.listen_anew(self._way)
            run.engine_ends.append(os.dup(self._way.fileno()))
        if self._config["direct"]:
            head["direct"] = True
            run.engine_ends.append(run.way_in())
        self._hand_over(head, run.engine_ends)
        self._rehearse(run)
        while True:
            told = self._told()
            if told is None:
                return False
            job, body = told
            if "stop" not in job:  # else it was meant for the one before, which had just ended
                break
        report, artifacts = self._work(run, job, body)
        frames.write(self._channel, frames.packed(report, b"".join(artifacts.values())))
        run.close()
        return bool(job["keep"])

    def _rehearse(self, run: Run) -> None:
        """Do once what a job will need: pages that are copied now need not be while somebody waits for the report."""
        said = frames.Frames(1 << 20)
        said.feed(frames.packed(SAMPLE, b"print()"))
        said.next()
        frames.packed({name: SAMPLE[name] for name in ("argv", "code", "env", "rlimits")}, b"print()")
        signal.raise_signal(signal.SIGCHLD)
        run.rehearse(self._channel, self._woken)
        os.statvfs(self._config["work"])
        if self._group is not None:
            self._group.used()
        empty(self._config["work"])
        frames.packed(SAMPLE, b"".join({"": b""}.values()))

    def _told(self) -> tuple[dict[str, Any], bytes] | None:
        """What the engine says next; None where it is gone."""
        while (frame := self._said.next()) is None:
            piece = os.read(self._channel, 1 << 16)
            if not piece:
                return None
            self._said.feed(piece)
        return frame

    def _hand_over(self, head: dict[str, Any], ends: list[int]) -> None:
        with socket.socket(fileno=os.dup(self._channel)) as channel:
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", ends))
            channel.sendmsg([frames.packed(head)], [rights])
        for fd in ends:
            os.close(fd)

    def _work(self, run: Run, job: dict[str, Any], body: bytes) -> tuple[dict[str, Any], dict[str, bytes]]:
        work = self._config["work"]
        rest = job["cpu_s"] - self._cpu_s
        if rest <= 0:
            run.drop()
            return {"spent": "cpu_s"}, {}
        code = job["code"] or 0
        if job["begun"]:
            run.begun(job["begun"])
            return self._ended(run, job, set())
        try:
            inputs = put_files(work, job["files"], memoryview(body)[code:]) if job["files"] else set()
        except OSError as error:
            run.drop()
            return {"refused": f"an input file cannot be put into the work folder: {error}"}, {}
        if rest < self._config["limits"]["cpu_s"]:
            job["rlimits"]["CPU"] = max(1, math.ceil(rest))
        try:
            run.begin({name: job[name] for name in ("argv", "code", "env", "rlimits")}, body[:code])
        except BrokenPipeError:
            run.drop()
            return {"refused": "the process that was to become the program had ended"}, {}
        return self._ended(run, job, inputs)

    def _ended(self, run: Run, job: dict[str, Any], inputs: Seen) -> tuple[dict[str, Any], dict[str, bytes]]:
        """Wait for the program's end; what there is to say of it."""
        work = self._config["work"]
        # What came in one piece with the job is read already, and no poll tells of it.
        stopped = "engine" if self._said.next() else run.wait(self._told, self._channel, self._woken, self._watched)
        report = run.end()
        report["stopped"] = stopped
        self._cpu_s += report["cpu_s"]
        space = os.statvfs(work)
        report["disk"] = (space.f_blocks - space.f_bfree) * space.f_frsize
        # A kernel that counts no files, as gVisor's, says that there are 0 and 0 free.
        no_more_files = space.f_files > 0 == space.f_ffree
        report["full"] = "disk_bytes" if space.f_bfree == 0 else "inodes" if no_more_files else None
        if self._group is not None:
            used = self._group.used()
            report["used"] = [used.peak, used.oom_kills, used.processes_refused]
        artifacts: dict[str, bytes] = {}
        report["left"] = []
        if job["collect"] and not empty(work):
            found = Collector(work, most=job["artifacts"], most_bytes=job["artifact_bytes"], known=self._known | inputs)
            found.run()
            artifacts, report["left"] = found.artifacts, found.left
            if job["keep"]:
                self._known = found.seen
        report["artifacts"] = [[name, len(data)] for name, data in artifacts.items()]
        return report, artifacts

    @property
    def _watched(self) -> int | None:
        return self._config["limits"]["memory_bytes"] if self._config["watch"] else None
