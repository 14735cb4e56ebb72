"""The FileSystem tools: read files, list directories and tell about files, in allowed directories only."""

from __future__ import annotations

import errno
import mimetypes
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from toolpost import (
    ConfigurationError,
    Hints,
    Screening,
    SecurityError,
    Tool,
    ToolContext,
    ToolDefinition,
    ToolError,
)
from toolpost.toolbox.beneath import (
    LOOK,
    READ,
    Escaped,
    is_kernel_interface,
    open_beneath,
    open_directory,
    supported,
)
from toolpost.toolbox.decoding import MIN_BYTES, codec_named, read_part
from toolpost.toolbox.listing import KINDS, MAX_DEPTH, Listing, described, matcher, shown
from toolpost.toolbox.refusals import quoted, refused

MAX_ENTRIES: Final = 10_000
"""The most entries one listing gives."""


def file_tools(
    allowed_directories: Sequence[str | os.PathLike[str]],
    *,
    max_bytes: int = 1_000_000,
    extensions: Sequence[str] = (),
) -> list[ToolDefinition]:
    """FileSystem.ReadFile, .ListDirectory and .GetFileInfo over these directories; without any, every call is refused.

    max_bytes bounds one read; larger files are read in parts. extensions (".txt") are of the files that may be read;
    empty means all. Links in the directories' own paths are resolved now, once; whoever may write to their parents
    decides what is allowed. Raises ConfigurationError for settings that are wrong.
    """
    if isinstance(allowed_directories, (str, os.PathLike)):
        raise ConfigurationError(f"allowed_directories is a list of directories; write [{str(allowed_directories)!r}]")
    if isinstance(extensions, str):
        raise ConfigurationError(f"extensions is a list of file name extensions; write [{extensions!r}]")
    if not isinstance(max_bytes, int) or isinstance(max_bytes, bool) or max_bytes < MIN_BYTES:
        raise ConfigurationError(f"max_bytes must be a whole number, {MIN_BYTES} or more, got {max_bytes!r}")
    if not supported():
        raise ConfigurationError("the file tools need a platform that opens files by directory handle, as Linux does")
    endings = tuple(dict.fromkeys("." + ending.strip().lower().lstrip(".") for ending in extensions))
    if "." in endings:
        raise ConfigurationError("extensions holds an empty one; leave it out, or give no extensions to allow all")
    files = FileSystem(tuple(AllowedDirectory.of(path) for path in allowed_directories), max_bytes, endings)
    # Which directories they are is left out: a definition is the same on every machine, as a lock of it must be.
    where = "A relative path is looked for in each allowed directory; an absolute one must lie in one of them."
    path = {"type": "string", "minLength": 1, "maxLength": 4096, "description": f"The path. {where}"}
    return [_read_tool(files, path), _list_tool(files, path), _info_tool(files, path)]


@dataclass(frozen=True, slots=True)
class AllowedDirectory:
    """A directory that tools may look into: its path as it was given, made absolute, and that without links."""

    given: Path
    path: Path

    @classmethod
    def of(cls, path: str | os.PathLike[str]) -> AllowedDirectory:
        """The directory of that path; it need not exist yet. Raises ConfigurationError for what is no path."""
        text = os.fspath(path)
        if not isinstance(text, str) or not text or "\0" in text:
            raise ConfigurationError(f"an allowed directory is a path, got {path!r}")
        given = os.path.abspath(os.path.expanduser(text))
        return cls(Path(given), Path(os.path.realpath(given)))

    def rest_of(self, names: Sequence[str]) -> str | None:
        """What is left of an absolute path, given as its names, beneath this directory; None when it lies elsewhere."""
        for directory in (self.given, self.path):
            own = directory.parts[1:]
            if tuple(names[: len(own)]) == own:
                return "/".join(names[len(own) :]) or "."
        return None


@dataclass(frozen=True, slots=True)
class Found:
    """A file that is open: the handle, what the handle says it is, its own name, and the directory it was found in."""

    fd: int
    status: os.stat_result
    name: str
    directory: str


class FileSystem:
    """The three operations. They hold no handles between calls and may run in any thread or worker process."""

    def __init__(
        self, directories: tuple[AllowedDirectory, ...], max_bytes: int, extensions: tuple[str, ...] = ()
    ) -> None:
        self._directories = directories
        self._extensions = extensions
        self.max_bytes = max_bytes
        self.allowed = ", ".join(str(one.given) for one in directories) or "none yet"

    def read_file(
        self, path: str, encoding: str = "utf-8", offset: int = 0, max_bytes: int | None = None
    ) -> dict[str, Any]:
        """The text of a file, or a part of it."""
        codec = None if encoding.strip().lower() == "base64" else codec_named(encoding)
        with self._open(path, LOOK) as found:  # so that what is no file is not opened: a FIFO would wake its writer
            self._check_file(path, found)
        with self._open(path, READ) as found:
            self._check_file(path, found)
            part = read_part(path, found.fd, codec, offset, min(max_bytes or self.max_bytes, self.max_bytes))
            return {
                "path": path,
                "allowed_directory": found.directory,
                "content": part.content,
                "encoding": codec.replace("_", "-") if codec else "base64",
                "size": found.status.st_size,
                "offset": part.start,
                "bytes": part.taken,
                "truncated": part.more,
                "next_offset": part.start + part.taken if part.more else None,
            }

    def list_directory(
        self,
        path: str = ".",
        pattern: str | None = None,
        recursive: bool = False,
        limit: int = 1000,
        ctx: ToolContext | None = None,
    ) -> dict[str, Any]:
        """What is in a directory, sorted by name."""
        listing = Listing(matcher(pattern, recursive), recursive, limit, ctx)
        with self._open(path, os.O_RDONLY | os.O_DIRECTORY) as found:
            if is_kernel_interface(found.status):
                raise _refusal(path, "path.kind", "is a door into the kernel, and only directories of files are listed")
            listing.add(found.fd, ())
            return {
                "path": path,
                "allowed_directory": found.directory,
                "entries": listing.entries,
                "count": len(listing.entries),
                "truncated": listing.truncated,
            }

    def get_file_info(self, path: str) -> dict[str, Any]:
        """What is known of a file or directory without reading it."""
        with self._open(path, LOOK) as found:
            status = found.status
            name = path.rstrip("/").rpartition("/")[2]
            media_type = mimetypes.MimeTypes().guess_type(name)[0] if stat.S_ISREG(status.st_mode) else None
            return {
                "path": path,
                "allowed_directory": found.directory,
                "name": name,
                **described(status),
                "permissions": stat.filemode(status.st_mode)[1:],
                "media_type": media_type,
            }

    # -- finding ------------------------------------------------------------------------------------------------------

    @contextmanager
    def _open(self, path: str, flags: int) -> Iterator[Found]:
        """The file at path, open for as long as the block lasts. Every OSError is told as a ToolError."""
        try:
            found = self._find(path, flags)
            try:
                yield found
            finally:
                os.close(found.fd)
        except OSError as exc:
            raise _failure(path, exc) from exc

    def _find(self, path: str, flags: int) -> Found:
        """The file in the first allowed directory that has it; a refusal outranks a file that is missing."""
        escaped, wanted = False, "directory" if flags & os.O_DIRECTORY else "file or directory"
        for directory, rest in self._places(path):
            try:
                root = open_directory(directory.path)
            except OSError:  # not there, or a link by now
                continue
            try:
                for spelling in _spellings(rest):
                    try:
                        opened = open_beneath(root, spelling, flags)
                    except Escaped:
                        escaped = True
                    except (FileNotFoundError, NotADirectoryError):
                        continue
                    else:
                        return Found(opened.fd, os.fstat(opened.fd), shown(opened.name), str(directory.given))
            finally:
                os.close(root)
        if escaped:
            raise self._outside(path)
        where = f"in the allowed directories ({self.allowed}); FileSystem.ListDirectory shows what is there"
        raise ToolError(f"there is no {wanted} {quoted(path)} {where}", code="not_found")

    def _places(self, path: str) -> list[tuple[AllowedDirectory, str]]:
        """Where to look for a path: each allowed directory that it may lie in, and what is left of it there."""
        if "\0" in path:
            raise refused("path", "must not hold a NUL character", expected="a path", got=quoted(path))
        if not self._directories:
            variable = "TOOL_EXECUTOR_ALLOWED_DIRECTORIES"
            why = f"is refused, as no directory is allowed; name some in allowed_directories ({variable})"
            raise _refusal(path, "path.outside", why)
        if not path.startswith("/"):
            return [(directory, path) for directory in self._directories]
        names = [name for name in path.split("/") if name not in ("", ".")]
        places = [(one, rest) for one in self._directories if (rest := one.rest_of(names)) is not None]
        if not places:
            raise self._outside(path)
        return places

    # -- refusing -----------------------------------------------------------------------------------------------------

    def _check_file(self, path: str, found: Found) -> None:
        """Refuse whatever is not a regular file with an allowed extension."""
        kind = KINDS.get(stat.S_IFMT(found.status.st_mode), "special file")
        if kind == "directory":
            way_out = "list it with FileSystem.ListDirectory"
            raise ToolError(f"{quoted(path)} is a directory; {way_out}", code="not_a_file")
        if kind != "file":
            raise _refusal(path, "path.kind", f"is a {kind}, and only files are read")
        if is_kernel_interface(found.status):
            raise _refusal(path, "path.kind", "is a door into the kernel, and only files with data are read")
        if self._extensions and not found.name.lower().endswith(self._extensions):
            endings = ", ".join(self._extensions)
            raise _refusal(path, "path.extension", f"has an extension that is not allowed; allowed are {endings}")

    def _outside(self, path: str) -> SecurityError:
        why = f"leads out of the allowed directories ({self.allowed}); name a path inside them"
        return _refusal(path, "path.outside", why)


def _refusal(path: str, rule: str, why: str) -> SecurityError:
    details = {"parameter": "path", "rule": rule, "role": "path", "kind": "path"}
    return SecurityError(f"{quoted(path)} {why}", details=details)


def _failure(path: str, exc: OSError) -> ToolError:
    if exc.errno in (errno.EACCES, errno.EPERM):
        return ToolError(f"{quoted(path)} may not be read by this process", code="permission_denied")
    if exc.errno == errno.ENAMETOOLONG:
        return ToolError(f"{quoted(path)} holds a name that is too long for a file", code="not_found")
    passing = exc.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EINTR)
    return ToolError(f"{quoted(path)} cannot be read: {exc.strerror}", retryable=passing, code="io_error")


_ODD_BYTE: Final = re.compile(r"\\x([89a-f][0-9a-f])")


def _spellings(path: str) -> list[bytes]:
    """What a path as text may be on disk: itself, and with the bytes that shown wrote out."""
    try:
        plain = path.encode()
    except UnicodeEncodeError:
        raise refused("path", "must be valid Unicode", expected="a path", got=ascii(path[:60])) from None
    if not _ODD_BYTE.search(path):
        return [plain]
    return [plain, _ODD_BYTE.sub(lambda odd: chr(0xDC00 + int(odd[1], 16)), path).encode(errors="surrogateescape")]


# -- declaring --------------------------------------------------------------------------------------------------------

_HINTS: Final = Hints(read_only=True, destructive=False, idempotent=True, open_world=False)
_TEXT: Final = {"type": "string"}
_COUNT: Final = {"type": "integer", "minimum": 0}
_COUNT_OR_NULL: Final = {"type": ["integer", "null"], "minimum": 0}
_PLACE: Final = {
    "path": {"type": "string", "description": "The path as it was given."},
    "allowed_directory": {"type": "string", "description": "The allowed directory in which it was found."},
}
_ABOUT: Final = {
    "type": {"enum": ["file", "directory", "symlink", "fifo", "socket", "device", "other"]},
    "size": {**_COUNT_OR_NULL, "description": "Bytes; null for what is no file."},
    "modified": {"type": ["string", "null"], "description": "When, in UTC, as ISO 8601 has it."},
}


def _object(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


def _read_tool(files: FileSystem, path: Mapping[str, Any]) -> ToolDefinition:
    most = files.max_bytes
    return Tool(
        name="FileSystem.ReadFile",
        description=f"Read a file as text, at most {most} bytes at a time. When truncated is true, read on from "
        "next_offset.",
        parameters={
            "path": path,
            "encoding": {
                "type": "string",
                "default": "utf-8",
                "maxLength": 60,
                "description": "The text's encoding, such as utf-8, utf-16, latin-1 or cp1252; base64 gives any file's "
                "bytes. A byte order mark is left out.",
            },
            "offset": {**_COUNT, "maximum": 2**53, "default": 0, "description": "The byte to begin at."},
            "max_bytes": {
                "type": ["integer", "null"],
                "default": None,
                "minimum": MIN_BYTES,
                "maximum": most,
                "description": f"Bytes to read at most; null means {most}.",
            },
        },
        returns=_object(
            {
                **_PLACE,
                "content": {"type": "string", "description": "The text, or base64."},
                "encoding": _TEXT,
                "size": {**_COUNT, "description": "Bytes of the whole file."},
                "offset": {**_COUNT, "description": "The byte at which content begins."},
                "bytes": {**_COUNT, "description": "How many bytes content stands for."},
                "truncated": {"type": "boolean", "description": "Whether the file goes on after content."},
                "next_offset": {**_COUNT_OR_NULL, "description": "Where to read on; null at the end."},
            }
        ),
        hints=_HINTS,
        tags=("files",),
        register=False,
    ).define(files.read_file)


def _list_tool(files: FileSystem, path: Mapping[str, Any]) -> ToolDefinition:
    return Tool(
        name="FileSystem.ListDirectory",
        description="List a directory, sorted by name. Links are shown, not followed.",
        parameters={
            "path": {**path, "default": "."},
            "pattern": {
                "type": ["string", "null"],
                "default": None,
                "minLength": 1,
                "maxLength": 255,
                "description": "Give only entries whose name fits this glob, such as *.md; with recursive also "
                "docs/**/*.md. Upper and lower case differ.",
            },
            "recursive": {
                "type": "boolean",
                "default": False,
                "description": f"List directories within, too, down to {MAX_DEPTH} levels.",
            },
            "limit": {
                "type": "integer",
                "default": 1000,
                "minimum": 1,
                "maximum": MAX_ENTRIES,
                "description": "Entries to give at most.",
            },
        },
        returns=_object(
            {
                **_PLACE,
                "entries": {
                    "type": "array",
                    "items": _object(
                        {"name": {"type": "string", "description": "From the listed directory."}, **_ABOUT}
                    ),
                },
                "count": _COUNT,
                "truncated": {
                    "type": "boolean",
                    "description": "Whether something is missing: past limit, too deep, or not to be entered.",
                },
            }
        ),
        screening=Screening(roles={"pattern": "text"}),
        hints=_HINTS,
        tags=("files",),
        register=False,
    ).define(files.list_directory)


def _info_tool(files: FileSystem, path: Mapping[str, Any]) -> ToolDefinition:
    return Tool(
        name="FileSystem.GetFileInfo",
        description="Tell the type, size, time and permissions of a file or directory. A link's target is told of.",
        parameters={"path": path},
        returns=_object(
            {
                **_PLACE,
                "name": _TEXT,
                **_ABOUT,
                "permissions": {"type": "string", "description": "Such as rw-r--r--."},
                "media_type": {"type": ["string", "null"], "description": "As the name's extension says."},
            }
        ),
        hints=_HINTS,
        tags=("files",),
        register=False,
    ).define(files.get_file_info)
