"""Control groups, version 2 or 1: one for each sandbox holds its memory, processes and processors, and counts them.

Groups lie below the group that this process is in, so that its own limits hold for them too; beside it where version 2
lets no group with processes have limited children; at the top as a last resort. Each is found by its name's prefix.
Source: Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/ of the kernel.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import Callable, Iterator, Mapping
from typing import Final, NamedTuple

from toolpost.sandbox import kernel
from toolpost.sandbox.group import Group, Limits, Used, Version1, Version2, members, read, reap, write

__all__ = ["Cgroups", "Group", "Used", "find", "reap", "sweep"]

PREFIX: Final = "toolpost"
_CONTROLLERS: Final = {"memory": "memory", "process_count": "pids", "cpu": "cpu"}
"""What can be limited -> the controller that does it."""


class Cgroups(NamedTuple):
    """Where groups can be made. places: what can be limited -> the folder that groups are made in.

    places has the keys "memory", "process_count" and "cpu", as far as this process may limit them, and "cpu_time" where
    version 1 counts that in a hierarchy of its own.
    """

    version: int
    places: Mapping[str, str]
    prefix: str = PREFIX

    @property
    def limits(self) -> frozenset[str]:
        """What groups can hold here, of "memory", "process_count" and "cpu"."""
        return frozenset(self.places) & frozenset(_CONTROLLERS)

    def make(self, name: str, *, memory: int, processes: int, cpus: float) -> Group:
        """A new group with these limits: each that is in self.limits is set, which Group.by repeats.

        memory is bytes, with swap; processes counts threads too. name is "<owner>-<anything>": sweep asks about the
        owner. Raises OSError, and leaves nothing, when a limit cannot be set.
        """
        if not re.fullmatch(r"[\w.-]+-[\w.]+", name):
            raise ValueError(
                f"a control group's name is '<owner>-<anything>' of letters, digits, '_', '.', got {name!r}"
            )
        kind = Version2 if self.version == 2 else Version1
        limits = Limits(memory=memory, processes=processes, cpus=cpus)
        group = kind(f"{self.prefix}.{name}", self.places, limits)
        group.make()
        return group

    def sweep(self, is_alive: Callable[[str], bool]) -> list[str]:
        """Kill and remove the groups whose owner, the name up to its last "-", is not alive. Returns their names.

        is_alive must say True of owners that it does not know: other engines' groups may lie in the same place.
        """
        found: dict[str, list[str]] = {}
        for base in dict.fromkeys(self.places.values()):
            for name in _names(base, f"{self.prefix}."):
                found.setdefault(name, []).append(f"{base}/{self.prefix}.{name}")
        dead = [name for name in found if not self._lives(name, is_alive)]
        return [name for name in dead if reap(found[name])]

    def _lives(self, name: str, is_alive: Callable[[str], bool]) -> bool:
        owner = name.rpartition("-")[0]
        probe = re.fullmatch(r"probe\.(\d+)", owner)
        return os.path.exists(f"/proc/{probe[1]}") if probe else is_alive(owner)

    def _proved(self) -> bool:
        """Make a group, put a process into it, and see it there."""
        try:
            name = f"probe.{os.getpid()}-{os.urandom(4).hex()}"
            group = self.make(name, memory=64 << 20, processes=16, cpus=1.0)
        except OSError:
            return False
        try:
            with _sleeper() as pid:
                group.join(pid)
                return all(pid in members([folder]) for folder in group.folders)
        except OSError:
            return False
        finally:
            group.remove()


@contextlib.contextmanager
def _sleeper() -> Iterator[int]:
    """A process that does nothing until the block ends."""
    read, write = os.pipe()
    pid = kernel.clone(0)
    if pid == 0:
        os.close(write)
        os.read(read, 1)
        os._exit(0)
    try:
        yield pid
    finally:
        os.close(read)
        os.close(write)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def find(prefix: str = PREFIX) -> Cgroups | None:
    """Where this process may make groups, proved by making one; None where it may not.

    Of several places the one with the most limits is taken, and version 2 before 1.
    """
    places = sorted([*_version_2(prefix), *_version_1(prefix)], key=lambda place: -len(place.limits))
    return next((place for place in places if place.limits and place._proved()), None)


def sweep(prefix: str, is_alive: Callable[[str], bool]) -> list[str]:
    """Cgroups.sweep wherever groups may have been made, whether or not some can be made there now."""
    own = _own_groups()
    known = {*_CONTROLLERS.values(), "cpuacct"}
    bases = [
        base
        for mount in _mounts()
        for controller in ([""] if mount.kind == "cgroup2" else mount.controllers & known)
        for base in mount.places(own.get(controller, "/"))
    ]
    return Cgroups(version=0, prefix=prefix, places={base: base for base in bases}).sweep(is_alive)


def _version_2(prefix: str) -> Iterator[Cgroups]:
    mounts = [mount for mount in _mounts() if mount.kind == "cgroup2"]
    own = _own_groups().get("", "/")
    for mount in mounts[:1]:
        for base in mount.places(own):
            enabled = _enabled(base)
            places = {what: base for what, controller in _CONTROLLERS.items() if controller in enabled}
            yield Cgroups(version=2, prefix=prefix, places=places)
            if len(places) == len(_CONTROLLERS):
                return


def _enabled(base: str) -> set[str]:
    """The controllers that hold for children of a group, after asking for ours."""
    wanted = set(_CONTROLLERS.values()) & set(read(f"{base}/cgroup.controllers").split())
    control = f"{base}/cgroup.subtree_control"
    for controller in wanted - set(read(control).split()):
        # A group with processes in it, but for the topmost, may limit no children: EBUSY.
        with contextlib.suppress(OSError):
            write(control, f"+{controller}")
    return wanted & set(read(control).split())


def _version_1(prefix: str) -> Iterator[Cgroups]:
    mounts = {name: mount for mount in _mounts() if mount.kind == "cgroup" for name in mount.controllers}
    own = _own_groups()
    places = {}
    for what, controller in {**_CONTROLLERS, "cpu_time": "cpuacct"}.items():
        bases = mounts[controller].places(own.get(controller, "/")) if controller in mounts else []
        writable = [base for base in bases if os.access(base, os.W_OK | os.X_OK)]
        if writable:
            places[what] = writable[0]
    yield Cgroups(version=1, prefix=prefix, places=places)


class _Mount(NamedTuple):
    kind: str
    root: str
    point: str
    controllers: frozenset[str]

    def places(self, own: str) -> list[str]:
        """The folders of the group called own, of the one above it, and the topmost that is seen here."""
        below = os.path.relpath(own, self.root)
        if below.startswith(".."):
            return [self.point]
        here = os.path.normpath(f"{self.point}/{below}")
        above = os.path.dirname(here) if here != self.point else here
        return list(dict.fromkeys((here, above, self.point)))


def _mounts() -> list[_Mount]:
    found = []
    for line in read("/proc/self/mountinfo").splitlines():
        head, _, tail = line.partition(" - ")
        kind, _, options = tail.split(" ", 2)
        if kind in ("cgroup", "cgroup2"):
            root, point = head.split()[3:5]
            found.append(_Mount(kind=kind, root=root, point=point, controllers=frozenset(options.split(","))))
    return found


def _own_groups() -> dict[str, str]:
    """Controller -> the group that this process is in; "" is version 2."""
    groups = {}
    for line in read("/proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        groups.update(dict.fromkeys(controllers.split(","), path))
    return groups


def _names(base: str, start: str) -> list[str]:
    try:
        return [name.removeprefix(start) for name in os.listdir(base) if name.startswith(start)]
    except OSError:
        return []
