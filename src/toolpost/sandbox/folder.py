"""The folder in which launchers keep their run folders: it is used only where no other user can change what is in it.

Its default lies in /tmp, where everybody may have made it before: with links in it, or with names that make the reaper
end what lives.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from toolpost.calls.errors import SandboxError
from toolpost.sandbox.link import not_run

_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
_LINKS: Final = 40
"""Symbolic links that are followed on the way, as many as the kernel follows."""


def make(root: Path) -> Path:
    """Make it, with those above it, where it is missing; its path without links. Raises SandboxError.

    Where it is like /tmp, or a volume that was mounted for everybody, it is a folder of this user's in it.
    """
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        place = _walked(os.path.abspath(root))
        if _is_common(place):
            place = _of_this_user(place)
        elif place.stat().st_mode & _OTHERS_WRITE:
            place.chmod(0o700)
        return place
    except OSError as error:
        raise not_run(f"the folder for sandboxes (SANDBOX_ROOT) cannot be made: {error}") from error


def _walked(path: str) -> Path:
    """Follow a path step by step, and look at each."""
    trusted = _trusted()
    left = path.strip("/").split("/")
    at, links = "/", 0
    while left:
        name = left.pop(0)
        if name in ("", ".", ".."):  # of a link; abspath leaves none
            at = os.path.dirname(at) if name == ".." else at
            continue
        here = os.path.join(at, name)
        about = os.lstat(here)
        if about.st_uid not in trusted:
            raise _refused(path, f"{here} belongs to the user {about.st_uid}")
        if stat.S_ISLNK(about.st_mode):
            target = os.readlink(here)
            links += 1
            if links > _LINKS:
                raise _refused(path, f"{here} is one link too many")
            left = target.split("/") + left
            at = "/" if target.startswith("/") else at
            continue
        if not stat.S_ISDIR(about.st_mode):
            raise _refused(path, f"{here} is no folder")
        # Writable by others, the last one is made safe where it is this user's.
        if (any(left) or about.st_uid != os.geteuid()) and not _keeps(here, about):
            raise _refused(path, f"others may replace what is in {here}, whose mode is {stat.S_IMODE(about.st_mode):o}")
        at = here
    return Path(at)


def _keeps(here: str, about: os.stat_result) -> bool:
    """Whether what this user makes in it stays what it is. A volume is taken to be mounted for who uses it."""
    by_group = about.st_mode & stat.S_IWGRP and about.st_gid != os.getegid()
    writable = by_group or about.st_mode & stat.S_IWOTH
    return not writable or bool(about.st_mode & stat.S_ISVTX) or os.path.ismount(here)


def _is_common(place: Path) -> bool:
    """Whether others make things in it too."""
    about = place.stat()
    return about.st_uid != os.geteuid() or bool(about.st_mode & stat.S_ISVTX and about.st_mode & _OTHERS_WRITE)


def _of_this_user(place: Path) -> Path:
    own = place / f"user-{os.geteuid()}"
    own.mkdir(mode=0o700, exist_ok=True)
    about = own.lstat()
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.geteuid() or about.st_mode & _OTHERS_WRITE:
        raise _refused(str(place), f"{own} is not a folder of the user {os.geteuid()} alone")
    return own


def _trusted() -> set[int]:
    """Users who may change the way to it: this one and root, also where root has no number in this namespace."""
    trusted = {0, os.geteuid()}
    try:
        with open("/proc/self/uid_map") as file:
            whole = file.read().split() == ["0", "0", "4294967295"]
        if not whole:
            with open("/proc/sys/kernel/overflowuid") as file:
                trusted.add(int(file.read()))
    except OSError:
        pass
    return trusted


def _refused(path: str, why: str) -> SandboxError:
    return not_run(
        f"the folder for sandboxes (SANDBOX_ROOT) {path} is not safe: {why}; remove it, or name one there that belongs "
        "to the engine's user and that nobody else can write to"
    )
