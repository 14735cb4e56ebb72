"""A launcher whose sandboxes bwrap makes: namespaces and root are its work, all else is as in the native one.

As root the root file system is built as there, and bwrap, as an ordinary user, binds it. Without root bwrap builds it:
it may be allowed to make namespaces where other programs of this user are not.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Iterator
from typing import Any, Final, NoReturn

from toolpost.sandbox import bubblewrap_box, carried, cgroups, kernel, launcher, template
from toolpost.sandbox.template import step

_START_S: Final = 20.0
_SAID: Final = 2000
_NAMESPACES: Final = ("user", "pid", "net", "ipc", "uts")
"""The mounts' own is always made; that of control groups is the warden's, once it is in its group."""


def main(fd: int) -> NoReturn:
    """Serve the engine at the other end of the socket fd."""
    launcher.main(fd, BubblewrapLauncher)


class BubblewrapLauncher(launcher.Launcher):
    """Each sandbox is a bwrap, which stays beside it, and in it an interpreter that becomes the warden."""

    own_processes = 2

    def _enter_namespaces(self, config: dict[str, Any]) -> None:
        with step("find bwrap"):
            self._bwrap = os.open(config["bwrap"], os.O_PATH | os.O_CLOEXEC)
        self._interpreter = os.path.realpath(sys.executable)
        self._code = carried.held(carried.modules())
        if self._uids is not None:
            super()._enter_namespaces(config)
        config["paths"] = launcher._paths(config)
        with step("make a sandbox with bwrap"):
            self._trial(config)

    def _preload(self, config: dict[str, Any]) -> None:
        """Every sandbox has an interpreter of its own, which imports for itself."""
        config["path"] = []

    def _trial(self, config: dict[str, Any]) -> None:
        """Start something in a sandbox, so that what bwrap complains about is said once and clearly."""
        read, write = os.pipe()
        pid = self._start(config, 0, [self._interpreter, "-I", "-S", "-E", "-c", ""], [], complain=write)
        os.close(write)
        said = b""
        with open(read, "rb", buffering=0) as complaints:
            while piece := complaints.read(_SAID):
                said = (said + piece)[-_SAID:]
        _, status = os.waitpid(pid, 0)
        if status:
            raise OSError(said.decode("utf-8", "replace").strip() or f"bwrap ended with {status}")

    def _make(self, order: dict[str, Any]) -> list[int]:
        config = self._config | {"limits": self._config["limits"] | order["limits"]}
        with step("make a control group"):
            group = self._group(config["limits"])
            if group is not None:
                group.hold()
        slot = self._free.pop() if self._free else 0
        try:
            with step("start bwrap"):
                alive, pid, ends = self._begin(config, group, slot)
        except BaseException:
            self._give_back(group, slot)
            raise
        self._alive[pid] = launcher._Made(group, slot, alive, bool(order["limits"]))
        return ends

    def _begin(self, config: dict[str, Any], group: cgroups.Group | None, slot: int) -> tuple[int, int, list[int]]:
        """Start a sandbox: what shows it that we live, bwrap's process, and what the engine gets."""
        ours, theirs = socket.socketpair()
        with contextlib.ExitStack() as closed:
            closed.enter_context(theirs)
            life, alive = os.pipe()
            go, let_go = os.pipe()
            info, inform = os.pipe()
            for fd in (life, go, let_go, info):
                closed.callback(os.close, fd)
            told = carried.held((config, None if group is None else group.told()))
            closed.callback(os.close, told)
            ends = [self._code, theirs.fileno(), go, life, told, *(group.hold() if group is not None else ())]
            words = [str(fd) for fd in (told, theirs.fileno(), go, life)]
            command = carried.command(self._interpreter, self._code, bubblewrap_box.__name__, *words)
            pid = 0
            try:
                try:
                    pid = self._start(config, slot, command, ends, group=group, inform=inform)
                finally:
                    os.close(inform)
                with step("make a sandbox with bwrap"):
                    first = _child(info, pid)
                    pidfd = kernel.pidfd_open(first)
                os.write(let_go, b"g")
            except BaseException:
                if pid:
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
                if group is not None:  # a first process that bwrap had not told to go on yet
                    group.kill()
                os.close(alive)
                ours.close()
                raise
        return alive, pid, [ours.detach(), pidfd]

    def _start(
        self,
        config: dict[str, Any],
        slot: int,
        command: list[str],
        ends: list[int],
        *,
        group: cgroups.Group | None = None,
        inform: int | None = None,
        complain: int | None = None,
    ) -> int:
        """Start bwrap with a command; its process.

        It is in the control group before it is bwrap: what it makes can be found by that whenever we end.
        """
        with self._files(config) as files:
            words = ["bwrap", *_words(config, built=self._uids is not None, files=files)]
            words += ["--info-fd", str(inform)] if inform is not None else []
            inherited = [*ends, *(fd for fd, _ in files), *([] if inform is None else [inform])]
            pid = os.fork()
            if pid == 0:
                try:
                    if group is not None:
                        group.join(0)
                    self._become(slot, inherited, complain)
                    # In the template it may lie elsewhere, or nowhere.
                    found = self._bwrap if self._uids is not None else config["bwrap"]
                    os.execve(found, [*words, "--", *command], {})
                except BaseException as error:
                    with contextlib.suppress(OSError):
                        os.write(2, f"bwrap cannot be started: {error}".encode("utf-8", "replace"))
                finally:
                    os._exit(1)
        return pid

    def _become(self, slot: int, inherited: list[int], complain: int | None) -> None:
        """In the new process: keep what is inherited, and be an ordinary user."""
        if complain is not None:
            os.dup2(complain, 2)
        for number in (signal.SIGTERM, signal.SIGCHLD, signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        for fd in inherited:
            os.set_inheritable(fd, True)
        if self._uids is not None:
            kernel.setns(self._inside, kernel.CLONE_NEWNS)
            user = self._uids[0] + slot
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
        kernel.close_all_but([0, 1, 2, self._bwrap, *inherited])

    @contextlib.contextmanager
    def _files(self, config: dict[str, Any]) -> Iterator[list[tuple[int, str]]]:
        """Files that bwrap puts into a root that it builds, as descriptor and path."""
        files: list[tuple[int, str]] = []
        try:
            if self._uids is None:
                for path, text in template.etc_files():
                    files.append((os.memfd_create("etc", os.MFD_CLOEXEC), path))
                    os.write(files[-1][0], text)
                    os.lseek(files[-1][0], 0, os.SEEK_SET)
            yield files
        finally:
            for fd, _ in files:
                os.close(fd)


def _child(info: int, pid: int) -> int:
    """The first process of a sandbox, as bwrap tells it."""
    said, until = b"", time.monotonic() + _START_S
    poll = select.poll()
    poll.register(info, select.POLLIN)
    while not said.rstrip().endswith(b"}"):
        if not poll.poll(max(0.0, until - time.monotonic()) * 1000):
            raise OSError(f"bwrap had not made a sandbox after {_START_S:g} s")
        piece = os.read(info, 4096)
        if not piece:
            raise OSError("bwrap ended before it had made a sandbox")
        said += piece
    first = int(json.loads(said)["child-pid"])
    with open(f"/proc/{first}/stat", "rb") as file:
        if int(file.read().rpartition(b")")[2].split()[1]) != pid:
            raise OSError("the sandbox's first process has ended")
    return first


def _words(config: dict[str, Any], *, built: bool, files: list[tuple[int, str]]) -> list[str]:
    """What bwrap is told. built: its root is the template, which the launcher has made and is in."""
    user = str(template.USER)
    words = ["--die-with-parent", "--as-pid-1", *(f"--unshare-{one}" for one in _NAMESPACES)]
    # Without devpts and the like one user namespace does for all, in which the warden may mount until it gives that up.
    words += ["--uid", user, "--gid", user, "--cap-add", "ALL"]
    words += ["--dev-bind", "/", "/"] if built else [*_root(config), *_etc(files), "--remount-ro", "/"]
    return [*words, "--chdir", "/"]


def _root(config: dict[str, Any]) -> Iterator[str]:
    """The root as the template has it, in words for bwrap."""
    for folder in (*template.FOLDERS, config["work"].lstrip("/")):
        yield from ("--perms", "0755", "--dir", f"/{folder}")
    yield from _show("/usr")
    for name in (*template.SYSTEM, *template.STORES):
        if os.path.islink(name):
            yield from ("--symlink", os.readlink(name), name)
        elif os.path.isdir(name):
            yield from _show(name)
    for name in template.DEVICES:
        yield from ("--dev-bind", f"/dev/{name}", f"/dev/{name}")
    for name, target in template.DEVICE_LINKS:
        yield from ("--symlink", target, f"/dev/{name}")
    prefix = config["prefix"]
    for folder in template.parts(prefix):
        yield from ("--symlink", os.readlink(folder), folder) if os.path.islink(folder) else _show(folder)
    for folder in template.hidden(prefix):
        yield from ("--tmpfs", folder, "--remount-ro", folder)
    for source, target in config["mounts"]:
        yield from _show(source, target)
    # The warden mounts one of its own, which the kernel allows who sees a whole one.
    yield from ("--bind", "/proc", "/proc")
    yield from ("--chmod", "0000", "/root")
    for folder in template.above(prefix):
        yield from ("--chmod", "0111", folder)


def _etc(files: list[tuple[int, str]]) -> Iterator[str]:
    for name in template.etc_folders():
        yield from _show(name)
    for fd, path in files:
        yield from ("--perms", "0644", "--file", str(fd), path)


def _show(source: str, target: str = "") -> tuple[str, str, str]:
    return "--ro-bind", source, target or source
