"""Starts a program as an ordinary user who sees this checkout and interpreter, wherever they lie.

Run as root: ordinary.py [--apart | --masked] UID PROGRAM [ARGUMENT …]. Folders that only root may enter are covered, in
a mount namespace of its own, by empty ones in which nothing but what is needed shows. --apart: it also gets a network,
processes, System V memory, /tmp and /dev/shm of its own, so that several can plant things of the same name. --masked: a
file of /proc is covered.
"""

import fcntl
import os
import signal
import socket
import stat
import struct
import sys
import tempfile
from pathlib import Path

from toolpost.sandbox import kernel

CHECKOUT = Path(__file__).resolve().parent.parent.parent


def needed() -> list[Path]:
    """What the user's programs read."""
    packages = [Path(entry) for entry in os.environ.get("PYTHONPATH", "").split(":") if entry.endswith("-packages")]
    return [Path(sys.base_prefix).resolve(), CHECKOUT / "src", CHECKOUT / "tests", *packages]


def closed(path: Path) -> Path | None:
    """The topmost folder above a path that others may not enter; None where the way is open."""
    for folder in reversed(path.parents):
        if not folder.stat().st_mode & stat.S_IXOTH:
            return folder
    return None


def show(paths: list[Path]) -> None:
    """Make the paths reachable for everybody, in this process's mount namespace."""
    kernel.unshare(kernel.CLONE_NEWNS)
    kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    covered = {path: top for path in paths if (top := closed(path)) is not None}
    if not covered:
        return
    aside = tempfile.mkdtemp(prefix="ordinary-")
    kernel.mount("tmpfs", aside, "tmpfs", 0, "mode=0755")
    for number, path in enumerate(covered):
        os.mkdir(f"{aside}/{number}")
        kernel.mount(str(path), f"{aside}/{number}", None, kernel.MS_BIND | kernel.MS_REC)
    for top in sorted(set(covered.values())):
        kernel.mount("tmpfs", str(top), "tmpfs", 0, "mode=0755")
    for number, path in enumerate(covered):
        path.mkdir(parents=True, exist_ok=True)
        kernel.mount(f"{aside}/{number}", str(path), None, kernel.MS_BIND | kernel.MS_REC)
    kernel.umount(aside)
    os.rmdir(aside)


def apart() -> None:
    """Leave the host's network, processes, memory and /tmp. The loopback works; ends with its parent."""
    kernel.unshare(kernel.CLONE_NEWIPC | kernel.CLONE_NEWNET | kernel.CLONE_NEWPID)
    first = os.fork()
    if first:
        os._exit(os.waitstatus_to_exitcode(os.waitpid(first, 0)[1]) & 255)
    kernel.death_signal(signal.SIGKILL)
    kernel.mount("proc", "/proc", "proc")
    for folder in ("/dev/shm", "/tmp"):
        kernel.mount("tmpfs", folder, "tmpfs", 0, "mode=1777")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, 0x8914, struct.pack("16sH14x", b"lo", 1))  # SIOCSIFFLAGS, IFF_UP
    program = os.fork()
    if program == 0:
        return
    while True:  # as process 1, which collects orphans
        pid, status = os.wait()
        if pid == program:
            os._exit(os.waitstatus_to_exitcode(status) & 255)


def mask() -> None:
    """Cover a file of /proc, as container engines do: no other /proc can be mounted then, but by root of the host."""
    kernel.mount("/dev/null", "/proc/interrupts", None, kernel.MS_BIND)


def main() -> None:
    first = {"--apart": apart, "--masked": mask}.get(sys.argv[1])
    uid, *argv = sys.argv[1 if first is None else 2 :]
    show(needed())
    if first is not None:
        first()
    os.setgroups([])
    os.setresgid(int(uid), int(uid), int(uid))
    os.setresuid(int(uid), int(uid), int(uid))
    os.umask(0o022)
    os.execv(argv[0], argv)


if __name__ == "__main__":
    main()
