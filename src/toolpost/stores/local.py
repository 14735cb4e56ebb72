"""FolderBlobs: large bytes by digest as files of one folder, written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeVar
from urllib.parse import unquote, urlsplit

from toolpost.calls.clock import SYSTEM_CLOCK, Clock
from toolpost.calls.errors import ConfigurationError, StoreUnavailableError
from toolpost.stores import public_url
from toolpost.stores.memory_blobs import check_range, checked, digest_of
from toolpost.stores.pending import Pending
from toolpost.stores.workers import Workers

T = TypeVar("T")
LEFTOVER_S = 24 * 3600.0
"""A temporary file this old belongs to a writer that died."""
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class FolderBlobs:
    """Blobs as files <folder>/sha256/ab/cdef..., of a URL file:///path/to/folder. Processes may share the folder.

    A blob is written to a temporary file, synced, renamed, and its folder synced: after a crash it is there whole or
    not at all. Below the folder no symbolic link is followed. Folders have mode 0700, files 0600.
    A put writes anew also what is there, which heals a damaged blob.
    """

    local = False
    durable = True

    def __init__(self, url: str, *, clock: Clock = SYSTEM_CLOCK, threads: int = 4) -> None:
        self.url = url
        self._path = _path_of(url)
        self._clock = clock
        self._workers = Workers("blobs", threads, clock=clock)
        self._lock = threading.Lock()
        self._tidied = False

    def put(self, data: bytes, /) -> Pending[str]:
        """Keep bytes; their digest."""
        return self._ask(partial(self._put, bytes(data)))

    def get(self, digest: str, start: int = 0, length: int | None = None, /) -> Pending[bytes | None]:
        """The bytes, or a range of them; None where there are none. Raises EngineError for a damaged blob."""
        check_range(digest, start, length)
        return self._ask(partial(self._get, digest, start, length))

    def size(self, digest: str, /) -> Pending[int | None]:
        """Bytes, None where there is no such blob."""
        check_range(digest)
        return self._ask(partial(self._size, digest))

    def delete(self, digest: str, /) -> Pending[bool]:
        """Forget a blob."""
        check_range(digest)
        return self._ask(partial(self._delete, digest))

    def sign(self, digest: str, ttl_s: float, /) -> None:
        """None: a folder has no URLs for others."""
        check_range(digest)

    def ping(self) -> Pending[None]:
        """Open the folder, making it if need be."""
        return self._ask(self._ping)

    def close(self) -> None:
        """Do what was asked, then end the threads."""
        self._workers.close()

    def _ask(self, work: Callable[[], T]) -> Pending[T]:
        return self._workers.ask(partial(self._told, work))

    def _told(self, work: Callable[[], T]) -> T:
        """Do it; what the system says becomes a StoreUnavailableError that names the folder."""
        try:
            return work()
        except OSError as error:
            what = f": {error.filename!r} is a symbolic link or no folder" if _is_link(error) else ""
            raise StoreUnavailableError(f"{self.url} cannot be used ({error.strerror or error}{what})") from error

    def _put(self, data: bytes) -> str:
        digest = digest_of(data)
        with self._open("tmp", make=True) as scratch, self._open("sha256", digest[:2], make=True) as folder:
            self._tidy(scratch)
            name = f"{digest}-{secrets.token_hex(8)}"
            try:
                _write(name, data, scratch)
                os.rename(name, digest[2:], src_dir_fd=scratch, dst_dir_fd=folder)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(name, dir_fd=scratch)
                raise
            os.fsync(folder)
        return digest

    def _get(self, digest: str, start: int, length: int | None) -> bytes | None:
        with self._blob(digest) as file:
            if file is None:
                return None
            left = max(0, os.fstat(file).st_size - start)
            data = _read(file, start, left if length is None else min(left, length))
        return checked(data, digest, self.url) if start == 0 and length is None else data

    def _size(self, digest: str) -> int | None:
        with self._blob(digest) as file:
            return None if file is None else os.fstat(file).st_size

    def _delete(self, digest: str) -> bool:
        try:
            with self._open("sha256", digest[:2]) as folder:
                os.unlink(digest[2:], dir_fd=folder)
        except FileNotFoundError:
            return False
        return True

    def _ping(self) -> None:
        with self._open("tmp", make=True), self._open("sha256", make=True):
            pass

    @contextlib.contextmanager
    def _blob(self, digest: str) -> Iterator[int | None]:
        """A blob's file, open for reading; None where there is none."""
        try:
            with self._open("sha256", digest[:2]) as folder:
                file = os.open(digest[2:], _READ, dir_fd=folder)
        except FileNotFoundError:
            yield None
            return
        try:
            yield file
        finally:
            os.close(file)

    @contextlib.contextmanager
    def _open(self, *names: str, make: bool = False) -> Iterator[int]:
        """A folder below the root, step by step, so that no link is followed. make: those that are missing."""
        if make:
            os.makedirs(self._path, mode=0o700, exist_ok=True)
        current = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for name in names:
                if make:
                    _make(name, current)
                inner = os.open(name, _FOLDER, dir_fd=current)
                os.close(current)
                current = inner
            yield current
        finally:
            os.close(current)

    def _tidy(self, scratch: int) -> None:
        """Once: remove what writers that died have left."""
        with self._lock:
            if self._tidied:
                return
            self._tidied = True
        before = self._clock.now() - LEFTOVER_S
        for name in os.listdir(scratch):
            with contextlib.suppress(OSError):
                about = os.stat(name, dir_fd=scratch, follow_symlinks=False)
                if stat.S_ISREG(about.st_mode) and about.st_mtime < before:
                    os.unlink(name, dir_fd=scratch)


def _path_of(url: str) -> str:
    parts = urlsplit(url)
    path = unquote(parts.path)
    if parts.netloc not in ("", "localhost") or not path.startswith("/") or "\0" in path or parts.query:
        raise ConfigurationError(
            f"blobs in a folder need a URL such as file:///var/lib/toolpost/blobs, got {public_url(url)!r}"
        )
    return path


def _make(name: str, parent: int) -> None:
    try:
        os.mkdir(name, 0o700, dir_fd=parent)
    except FileExistsError:
        return
    os.fsync(parent)


def _write(name: str, data: bytes, folder: int) -> None:
    file = os.open(name, _WRITE, 0o600, dir_fd=folder)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(file, rest) :]
        os.fsync(file)
    finally:
        os.close(file)


def _read(file: int, start: int, length: int) -> bytes:
    """So many bytes from there; fewer when the file ends before."""
    parts = []
    while length > 0 and (part := os.pread(file, length, start)):
        parts.append(part)
        start, length = start + len(part), length - len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _is_link(error: OSError) -> bool:
    return error.errno in (errno.ELOOP, errno.ENOTDIR)
