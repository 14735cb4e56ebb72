"""The launcher: a small process that makes sandboxes for one engine and profile, and ends them all with the engine.

It is started by a fresh exec with an empty environment, so that nothing of the engine's is in the memory that sandboxes
are forked from. It has one thread, and it answers orders that come on a socket of whole messages.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import gc
import importlib
import json
import os
import resource
import select
import signal
import socket
import sys
from typing import Any, Final, NoReturn

from toolpost.sandbox import cgroups, kernel, landlock, program, seccomp, template, warden
from toolpost.sandbox.template import StepError, step

LARGEST: Final = 1 << 20
"""Bytes of a message on the control socket."""
_UIDS, _BLOCKS, _FIRST_UID = 4096, 65536, 1_000_000_000
_SPARE = 32


def main(fd: int, kind: type[Launcher] | None = None) -> NoReturn:
    """Serve the engine at the other end of the socket fd. kind makes the sandboxes, where it is not Launcher."""
    # Descriptors of the engine are closed already; this is for those that it leaves open on purpose.
    kernel.close_all_but([0, 1, 2, fd])
    control = socket.socket(fileno=fd)
    pieces = []
    while (piece := control.recv(LARGEST)) != b".":
        if not piece:
            os._exit(0)
        pieces.append(piece)
    told = json.loads(b"".join(pieces))
    launcher = None
    try:
        launcher = (kind or Launcher)(control, told)
        control.send(json.dumps({"ready": launcher.facts}).encode())
        launcher.serve()
    except StepError as error:
        with contextlib.suppress(OSError):
            control.send(json.dumps({"fatal": str(error), "step": error.step, "errno": error.errno}).encode())
    except BaseException as error:
        with contextlib.suppress(OSError):
            control.send(json.dumps({"fatal": f"{type(error).__name__}: {error}", "step": "serve"}).encode())
    if launcher is not None:
        launcher.close()
    else:
        _remove(told["folder"])
    os._exit(0)


class Launcher:
    """Makes sandboxes by order, and knows all that exists of them."""

    own_processes = 1
    """How many of each sandbox's processes are ours."""

    def __init__(self, control: socket.socket, config: dict[str, Any]) -> None:
        self._control, self._config = control, config
        self._lock = -1
        self._alive: dict[int, _Made] = {}
        self._spare: list[cgroups.Group] = []
        self._networks: list[int] = []
        self._made = 0
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # each sandbox that runs holds some
        self._woken, wake = os.pipe()
        for end in (self._woken, wake):
            os.set_blocking(end, False)
        with step("make the run folder"):
            self._folder()
        with step("make control groups"):
            self._groups = cgroups.find(config["cgroup_parent"]) if config["cgroups"] else None
            config["watch"] = self._groups is None
        landlock_abi = landlock.abi()
        config["landlock"] = landlock_abi if config["use_landlock"] else 0
        self._filters(config)
        self._uids = self._uid_block()
        self._free = list(range(_UIDS - 1, -1, -1))
        self._enter_namespaces(config)
        # With a loopback that is up, it must belong to the sandbox's own user namespace; the others are used again.
        self._own_network = bool(config["network"])
        with step("import what is preloaded"):
            self._preload(config)
        self.facts = {
            "cgroup": None if self._groups is None else self._first_group(),
            "landlock": config["landlock"],
            "notify": config["notify"],
            "distinct": self._uids is not None,
            "seccomp": True,
            "made_by": config.get("made_by"),
        }
        program.prepare(config)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        gc.collect()
        kernel.trim()
        gc.freeze()
        gc.disable()

    # --- getting ready

    def _folder(self) -> None:
        folder = self._config["folder"]
        os.makedirs(folder, mode=0o700)
        self._lock = os.open(f"{folder}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.mkdir(f"{folder}/root", 0o700)

    def _filters(self, config: dict[str, Any]) -> None:
        with step("make the system call filter"):
            config["notify"] = config["notify"] and seccomp.available(notify=True)
            if not seccomp.available(notify=False):
                raise OSError("this kernel or architecture has no seccomp filters that toolpost knows")
            config["filter"] = seccomp.program(
                config["syscalls"], network=bool(config["network"]), notify=config["notify"]
            )

    def _uid_block(self) -> tuple[int, int] | None:
        """The host's user ids for sandboxes of this launcher; None where only this one user may be mapped."""
        if os.geteuid() != 0 or not self._config["distinct"]:
            return None
        with open("/proc/self/uid_map") as file:
            ranges = [(int(words[0]), int(words[2])) for words in map(str.split, file)]
        block = _FIRST_UID + os.getpid() % _BLOCKS * _UIDS
        for first, count in ranges:
            if first <= block and block + _UIDS <= first + count:
                return block, _UIDS
        first, count = max(ranges, key=lambda one: one[1])
        return (first + count - _UIDS - 16, _UIDS) if count > 3 * _UIDS else None

    def _enter_namespaces(self, config: dict[str, Any]) -> None:
        uid, gid = os.geteuid(), os.getegid()
        flags = kernel.CLONE_NEWNS | kernel.CLONE_NEWNET | kernel.CLONE_NEWIPC
        if self._uids is None:
            flags |= kernel.CLONE_NEWUSER
        else:
            os.setgroups([])
        with step("make namespaces"):
            kernel.unshare(flags)
        if self._uids is None:
            with step("map the user into its namespace"):
                template.write("/proc/self/setgroups", "deny")
                template.write("/proc/self/uid_map", f"{template.USER} {uid} 1")
                template.write("/proc/self/gid_map", f"{template.USER} {gid} 1")
        with step("make namespaces"):
            kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_SLAVE)
            self._host = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
            kernel.unshare(kernel.CLONE_NEWNS)
            self._inside = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
            self._home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        at = f"{config['folder']}/root"
        template.build(at, work=config["work"], mounts=config["mounts"], prefix=config["prefix"])
        config["paths"] = _paths(config)
        kernel.setns(self._host, kernel.CLONE_NEWNS)

    def _preload(self, config: dict[str, Any]) -> None:
        kernel.setns(self._inside, kernel.CLONE_NEWNS)
        try:
            before = list(sys.path)
            config["path"] = [*before, *config["package_paths"]]
            sys.path[:] = config["path"]
            for name in config["preload"]:
                importlib.import_module(name)
            sys.path[:] = before
        finally:
            kernel.setns(self._host, kernel.CLONE_NEWNS)

    def _first_group(self) -> dict[str, str]:
        group = self._group(self._config["limits"])
        assert group is not None
        self._spare.append(group)
        return group.by

    # --- serving

    def serve(self) -> None:
        """Answer orders until the engine is gone."""
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._woken, select.POLLIN)
        with contextlib.suppress(OSError):  # the socket may live on in a process that the engine forked
            poll.register(kernel.pidfd_open(self._config["engine"]), select.POLLIN)
        while True:
            for fd, _ in poll.poll():
                if fd == self._woken:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._woken, 4096)
                    self._reap()
                elif fd == self._control.fileno():
                    order = self._control.recv(LARGEST)
                    if not order:
                        return
                    self._answer(json.loads(order))
                else:
                    return

    def _answer(self, order: dict[str, Any]) -> None:
        said, ends = {"id": order["id"]}, []
        try:
            with step("make a sandbox"):
                ends = self._make(order)
        except StepError as error:
            said |= {"error": str(error), "step": error.step, "errno": error.errno}
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", ends))] if ends else []
        self._control.sendmsg([json.dumps(said).encode()], rights)
        for fd in ends:
            os.close(fd)

    def _make(self, order: dict[str, Any]) -> list[int]:
        """Begin one sandbox; returns the engine's end of its channel, and a descriptor of its first process."""
        config = self._config | {"limits": self._config["limits"] | order["limits"]}
        if not self._free:
            raise OSError(f"{_UIDS} sandboxes of one profile run, which is the most that have users of their own")
        ours, theirs = socket.socketpair()
        go, let_go = os.pipe()
        life, alive = os.pipe()
        slot = self._free.pop()
        group = None
        network = -1
        flags = warden.NAMESPACES | (kernel.CLONE_NEWNET if self._own_network else 0)
        pid = 0
        try:
            with step("make a control group"):
                group = self._group(config["limits"])
                if group is not None:
                    group.hold()
            with step("make a sandbox's namespaces"):
                network = self._network()
                pid = self._clone(flags, network)
            if pid == 0:
                warden.main(config, theirs.fileno(), group, go, life)
            with step("map the sandbox's user"):
                self._map(pid, slot)
            if group is not None:
                with step("put the sandbox into its control group"):
                    group.join(pid)
            os.write(let_go, b"g")
            pidfd = kernel.pidfd_open(pid)
        except BaseException:
            if pid:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            os.close(alive)
            ours.close()
            self._give_back(group, slot, network)
            raise
        finally:
            theirs.close()
            for fd in (go, let_go, life):
                os.close(fd)
        self._alive[pid] = _Made(group, slot, alive, bool(order["limits"]), network)
        return [ours.detach(), pidfd]

    def _clone(self, flags: int, network: int) -> int:
        """Fork the first process of a sandbox, from inside of the template."""
        kernel.setns(self._inside, kernel.CLONE_NEWNS)
        pid = -1
        try:
            if network >= 0:
                kernel.setns(network, kernel.CLONE_NEWNET)
            pid = kernel.clone(flags)
        finally:
            if pid != 0:
                kernel.setns(self._host, kernel.CLONE_NEWNS)
                kernel.setns(self._home, kernel.CLONE_NEWNET)
        return pid

    def _network(self) -> int:
        """A network namespace without interfaces and sockets, that nobody else is in; -1 where the clone makes one.

        In a common one /proc shows programs each other's sockets, and names that one has bound no other can bind.
        Making one is dear, so they are used again.
        """
        if self._own_network:
            return -1
        while self._networks:
            network = self._networks.pop()
            if self._is_empty(network):
                return network
            os.close(network)
        try:
            kernel.unshare(kernel.CLONE_NEWNET)
            return os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            kernel.setns(self._home, kernel.CLONE_NEWNET)

    def _is_empty(self, network: int) -> bool:
        """Whether no socket is left in it: those in flight between sockets live on for a while after their program."""
        kernel.setns(network, kernel.CLONE_NEWNET)
        try:
            with open("/proc/self/net/unix", "rb") as sockets:
                return sockets.read().count(b"\n") == 1  # the heading
        except OSError:
            return False
        finally:
            kernel.setns(self._home, kernel.CLONE_NEWNET)

    def _map(self, pid: int, slot: int) -> None:
        if self._uids is None:
            with contextlib.suppress(OSError):
                template.write(f"/proc/{pid}/setgroups", "deny")
            outside = template.USER
        else:
            outside = self._uids[0] + slot
        template.write(f"/proc/{pid}/uid_map", f"{template.USER} {outside} 1")
        template.write(f"/proc/{pid}/gid_map", f"{template.USER} {outside} 1")

    def _group(self, limits: dict[str, Any]) -> cgroups.Group | None:
        """A control group of these limits; one that was used before where they are the profile's."""
        if self._groups is None:
            return None
        if limits == self._config["limits"] and self._spare:
            return self._spare.pop()
        self._made += 1
        return self._groups.make(
            f"{self._config['id']}-{self._made}",
            memory=limits["memory_bytes"],
            processes=limits["processes"] + self.own_processes,
            cpus=limits["cpus"],
        )

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, _ = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                made = self._alive.pop(pid, None)
                if made is not None:
                    os.close(made.alive)
                    self._give_back(made.group, made.slot, made.network, special=made.special)

    def _give_back(self, group: cgroups.Group | None, slot: int, network: int = -1, *, special: bool = False) -> None:
        self._free.append(slot)
        if network >= 0:
            if len(self._networks) < _SPARE:
                self._networks.append(network)
            else:
                os.close(network)
        if group is None:
            return
        if not special and len(self._spare) < _SPARE:
            with contextlib.suppress(OSError):
                group.reset()
                self._spare.append(group)
                return
        group.remove()

    def close(self) -> None:
        """End every sandbox and remove all that was made for them."""
        for pid in self._alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid, made in self._alive.items():
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
            if made.group is not None:
                made.group.remove()
        for group in self._spare:
            group.remove()
        _remove(self._config["folder"])


def _remove(folder: str) -> None:
    """Remove a run folder with the little that is in it."""
    for remove, name in ((os.unlink, "/lock"), (os.unlink, "/seccomp.json"), (os.rmdir, "/root"), (os.rmdir, "")):
        with contextlib.suppress(OSError):
            remove(folder + name)


class _Made:
    """What belongs to one sandbox."""

    __slots__ = ("alive", "group", "network", "slot", "special")

    def __init__(self, group: cgroups.Group | None, slot: int, alive: int, special: bool, network: int = -1) -> None:
        self.group, self.slot, self.alive, self.special, self.network = group, slot, alive, special, network


def _paths(config: dict[str, Any]) -> dict[str, Any]:
    """The second layer's rules: what the template shows, by what may be done with it, and the proxy's port."""
    return {
        "look": ["/", "/dev"],
        "read_execute": [
            "/usr",
            *template.SYSTEM,
            *template.STORES,
            config["prefix"],
            *(m[1] for m in config["mounts"]),
        ],
        "read": ["/etc", "/proc"],
        "write": [config["work"], "/tmp", "/var/tmp", "/dev/shm"],
        "devices": [f"/dev/{name}" for name in template.DEVICES],
        "connect": [config["network"]] if config["network"] else [],
    }
