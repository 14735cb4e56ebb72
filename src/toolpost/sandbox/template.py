"""The root that all sandboxes of a launcher see: the system's programs and an interpreter, read-only; no host data."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import Final

from toolpost.sandbox import kernel

USER: Final = 1000
"""User and group inside."""
DEVICES: Final = ("null", "zero", "full", "random", "urandom")
DEVICE_LINKS: Final = tuple(
    (name, f"/proc/self/{target}")
    for name, target in (("fd", "fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2"))
)
SYSTEM: Final = ("/bin", "/sbin", "/lib", "/lib64", "/lib32", "/libx32")
"""Links into /usr on today's distributions, and folders on others."""
STORES: Final = ("/nix/store", "/gnu/store")
"""Where some distributions keep all their programs."""
_ETC_FILES = ("ld.so.cache", "ld.so.conf", "localtime", "mime.types", "services", "protocols")
_ETC_OWN = {
    "passwd": f"sandbox:x:{USER}:{USER}::/box:/bin/sh\n",
    "group": f"sandbox:x:{USER}:\n",
    "hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "hostname": "sandbox\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
}
_ETC_FOLDERS = ("alternatives", "ssl/certs", "ca-certificates", "fonts", "ld.so.conf.d")
_PRIVATE = ("/usr/home", "/usr/src", "/usr/local/etc", "/usr/local/src")
_INTERPRETER = ("bin", "lib", "lib64", "include", "share", "ssl")
FOLDERS: Final = ("usr", "etc", "proc", "dev/shm", "tmp", "var/tmp", "home", "run", "root", "opt", "sys", "old")


class StepError(Exception):
    """A step of making a sandbox failed. step says what was tried, in words that a reader of the error understands."""

    def __init__(self, step: str, error: BaseException) -> None:
        super().__init__(f"{step}: {error}")
        self.step = step
        self.errno = error.errno if isinstance(error, OSError) else None


@contextlib.contextmanager
def step(name: str) -> Iterator[None]:
    """Name what is tried in the errors that come out of it."""
    try:
        yield
    except StepError:
        raise
    except Exception as error:
        raise StepError(name, error) from error


def write(path: str, text: str | bytes, *, make: bool = False) -> None:
    """Write a small file in one piece, as files of the kernel want it."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | (os.O_CREAT | os.O_EXCL if make else 0), 0o644)
    try:
        os.write(fd, text.encode() if isinstance(text, str) else text)
    finally:
        os.close(fd)


def build(at: str, *, work: str, mounts: Sequence[Sequence[str]], prefix: str) -> None:
    """Make the root at the folder at and enter it. The caller has a mount namespace of its own, which this fills.

    mounts are pairs of source on the host and target inside. prefix is the interpreter's, shown at the same path.
    """
    with step("make the root's file system"):
        kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
        kernel.mount("tmpfs", at, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "size=4m,nr_inodes=8192,mode=0755")
        for folder in (*FOLDERS, work.lstrip("/")):
            os.makedirs(f"{at}/{folder}", exist_ok=True)
    with step("show the system's programs"):
        _system(at)
        _etc(at)
    with step("show the devices"):
        _devices(at)
    with step("show the interpreter"):
        _interpreter(at, prefix)
    for source, target in mounts:
        with step(f"show {source} at {target}"):
            _show(source, at + target)
    with step("enter the root"):
        kernel.mount("/proc", f"{at}/proc", None, kernel.MS_BIND | kernel.MS_REC)
        os.chdir(at)
        kernel.pivot_root(at, f"{at}/old")
        os.chdir("/")
        kernel.umount("/old")
        os.rmdir("/old")
        os.chmod("/root", 0o000)
        for folder in above(prefix):
            os.chmod(folder, 0o111)
        kernel.mount_attributes("/", readonly=True, nosuid=True, nodev=True)


def _show(source: str, target: str) -> None:
    """Show a file or folder of the host, read-only, making the folders above it."""
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with contextlib.suppress(FileExistsError):
            write(target, "", make=True)
    kernel.bind(source, target)


def _system(at: str) -> None:
    _show("/usr", f"{at}/usr")
    for name in SYSTEM:
        if os.path.islink(name):
            os.symlink(os.readlink(name), at + name)
        elif os.path.isdir(name):
            _show(name, at + name)
    for name in STORES:
        if os.path.isdir(name):
            _show(name, at + name)


def _etc(at: str) -> None:
    for path, text in etc_files():
        write(at + path, text, make=True)
    for folder in etc_folders():
        _show(folder, at + folder)


def etc_files() -> Iterator[tuple[str, bytes]]:
    """The files of /etc that there are, with what is in them."""
    for name in _ETC_FILES:
        with contextlib.suppress(FileNotFoundError), open(f"/etc/{name}", "rb") as file:
            yield f"/etc/{name}", file.read(1 << 20)
    for name, text in _ETC_OWN.items():
        yield f"/etc/{name}", text.encode()


def etc_folders() -> list[str]:
    """The folders of /etc that are shown."""
    return [f"/etc/{name}" for name in _ETC_FOLDERS if os.path.isdir(f"/etc/{name}")]


def _devices(at: str) -> None:
    for name in DEVICES:
        write(f"{at}/dev/{name}", "", make=True)
        # Devices are written to all the same; what is read-only is the host's node, its times among that.
        kernel.bind(f"/dev/{name}", f"{at}/dev/{name}", noexec=True, nodev=False)
    for name, target in DEVICE_LINKS:
        os.symlink(target, f"{at}/dev/{name}")


def is_system(prefix: str) -> bool:
    """Whether the interpreter is among the system's programs, which are shown anyway."""
    return any(prefix == one or prefix.startswith(f"{one}/") for one in ("/usr", *STORES))


def _interpreter(at: str, prefix: str) -> None:
    """Show the interpreter where it lies on the host, without what else is installed there."""
    for folder in parts(prefix):
        if os.path.islink(folder):
            os.makedirs(at + prefix, exist_ok=True)
            os.symlink(os.readlink(folder), at + folder)
        else:
            _show(folder, at + folder)
    for folder in hidden(prefix):
        kernel.mount("tmpfs", at + folder, "tmpfs", kernel.MS_RDONLY | kernel.MS_NOSUID, "size=0,nr_inodes=1")


def parts(prefix: str) -> list[str]:
    """What an interpreter needs of its prefix. Settings, caches and other environments may lie beside that."""
    if is_system(prefix):
        return []
    return [f"{prefix}/{name}" for name in _INTERPRETER if os.path.isdir(f"{prefix}/{name}")]


def hidden(prefix: str) -> list[str]:
    """What is not to be seen among what is shown: an interpreter's own packages, which are the engine's but for those
    of the system, and where hosts keep settings and applications of their own below /usr.
    """
    private = [folder for folder in _PRIVATE if os.path.isdir(folder) and os.path.realpath(folder) == folder]
    if prefix == "/usr":
        return private
    found = [f"{prefix}/lib/{name}/site-packages" for name in os.listdir(f"{prefix}/lib") if name.startswith("python")]
    return [*private, *(folder for folder in found if os.path.isdir(folder))]


def above(prefix: str) -> list[str]:
    """The folders on the way to an interpreter: a way to go, in which nothing is to be listed."""
    found = []
    folder = "/" if is_system(prefix) else os.path.dirname(prefix)
    while folder != "/":
        found.append(folder)
        folder = os.path.dirname(folder)
    return found
