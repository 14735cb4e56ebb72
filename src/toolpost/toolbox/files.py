"""The FileSystem tools: read files, list directories and tell about files, in allowed directories only."""

from __future__ import annotations

import base64
import codecs
import difflib
import errno
import fnmatch
import mimetypes
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from encodings import normalize_encoding
from encodings.aliases import aliases
from itertools import islice
from pathlib import Path
from typing import Any, Final

from toolpost import (
    ConfigurationError,
    Hints,
    InputValidationError,
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

MIN_BYTES: Final = 4
"""The least that one read may ask for: no character of a known encoding is longer."""

MAX_ENTRIES: Final = 10_000
"""The most entries one listing gives."""

MAX_LOOKED_AT: Final = 100_000
"""The most names one listing reads from directories."""

MAX_DEPTH: Final = 32
"""How many levels below the listed directory a recursive listing goes."""


def file_tools(
    allowed_directories: Sequence[str | os.PathLike[str]],
    *,
    max_bytes: int = 1_000_000,
    extensions: Sequence[str] = (),
) -> list[ToolDefinition]:
    """FileSystem.ReadFile, FileSystem.ListDirectory and FileSystem.GetFileInfo over these directories; none: all refuse.

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
    where = f"Allowed directories: {files.allowed}. A relative path is looked for in each of them."
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
        codec = None if encoding.strip().lower() == "base64" else _codec(encoding)
        with self._open(path, LOOK) as found:  # so that what is no file is not opened: a FIFO would wake its writer
            self._check_file(path, found)
        with self._open(path, READ) as found:
            self._check_file(path, found)
            part = _read_part(path, found.fd, codec, offset, min(max_bytes or self.max_bytes, self.max_bytes))
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
        listing = Listing(_matcher(pattern, recursive), recursive, limit, ctx)
        with self._open(path, os.O_RDONLY | os.O_DIRECTORY, parameter_kind="a directory") as found:
            if is_kernel_interface(found.status):
                raise self._refusal(path, "path.kind", "is an interface of the kernel")
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
                **_described(status),
                "permissions": stat.filemode(status.st_mode)[1:],
                "media_type": media_type,
            }

    # -- finding ------------------------------------------------------------------------------------------------------

    @contextmanager
    def _open(self, path: str, flags: int, parameter_kind: str = "a file or directory") -> Iterator[Found]:
        """The file at path, open for as long as the block lasts; what goes wrong in it is told of path."""
        try:
            found = self._find(path, flags, parameter_kind)
            try:
                yield found
            finally:
                os.close(found.fd)
        except OSError as exc:
            raise _failure(path, exc) from exc

    def _find(self, path: str, flags: int, wanted: str) -> Found:
        escaped, wrong_kind = False, False
        for directory, rest in self._places(path):
            try:
                root = open_directory(directory.path)
            except OSError:  # not there, or no directory (any more)
                continue
            try:
                for way in _spellings(rest):
                    try:
                        opened = open_beneath(root, way, flags)
                    except Escaped:
                        escaped = True
                    except FileNotFoundError:
                        continue
                    except NotADirectoryError:
                        wrong_kind = True
                    else:
                        status = os.fstat(opened.fd)
                        return Found(opened.fd, status, _shown(opened.name), str(directory.given))
            finally:
                os.close(root)
        if escaped:
            raise self._outside(path)
        if wrong_kind:
            raise ToolError(f"{_quoted(path)} is not a directory, or one on the way is none", code="not_a_directory")
        raise ToolError(
            f"there is no {wanted.removeprefix('a ')} {_quoted(path)} in the allowed directories ({self.allowed}); "
            f"FileSystem.ListDirectory shows what is there",
            code="not_found",
        )

    def _places(self, path: str) -> list[tuple[AllowedDirectory, str]]:
        """Where to look for a path: each allowed directory that it may lie in, and what is left of it there."""
        if "\0" in path:
            raise _refused_argument("path", "must not hold a NUL character", "a path", repr(path[:60]))
        if not self._directories:
            raise SecurityError(
                f"{_quoted(path)} is refused, as no directory is allowed; name some in allowed_directories "
                f"(TOOL_EXECUTOR_ALLOWED_DIRECTORIES)",
                details={"parameter": "path", "rule": "path.outside", "role": "path", "kind": "path"},
            )
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
        mode = found.status.st_mode
        if stat.S_ISDIR(mode):
            raise ToolError(
                f"{_quoted(path)} is a directory; list it with FileSystem.ListDirectory", code="not_a_file"
            )
        if not stat.S_ISREG(mode):
            raise self._refusal(path, "path.kind", f"is a {_KINDS.get(stat.S_IFMT(mode), 'special file')}, not a file")
        if is_kernel_interface(found.status):
            raise self._refusal(path, "path.kind", "is an interface of the kernel")
        if self._extensions and not found.name.lower().endswith(self._extensions):
            endings = ", ".join(self._extensions)
            raise self._refusal(path, "path.extension", f"is of a kind that may not be read; allowed are {endings}")

    def _outside(self, path: str) -> SecurityError:
        why = f"leads out of the allowed directories ({self.allowed}); name a path inside them"
        return self._refusal(path, "path.outside", why)

    @staticmethod
    def _refusal(path: str, rule: str, why: str) -> SecurityError:
        details = {"parameter": "path", "rule": rule, "role": "path", "kind": "path"}
        return SecurityError(f"{_quoted(path)} {why}", details=details)


_KINDS: Final = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
}


def _described(status: os.stat_result) -> dict[str, Any]:
    """The type of a file, its size in bytes where it has one, and when it was last modified."""
    size = status.st_size if stat.S_ISREG(status.st_mode) else None
    try:
        modified = datetime.fromtimestamp(status.st_mtime, UTC).isoformat(timespec="seconds")
    except (OverflowError, ValueError, OSError):  # beyond the years that datetime knows
        modified = None
    return {"type": _KINDS.get(stat.S_IFMT(status.st_mode), "other"), "size": size, "modified": modified}


def _failure(path: str, exc: OSError) -> ToolError:
    if exc.errno in (errno.EACCES, errno.EPERM):
        return ToolError(f"{_quoted(path)} may not be read by this process", code="permission_denied")
    if exc.errno == errno.ENAMETOOLONG:
        return ToolError(f"{_quoted(path)} holds a name that is too long for a file", code="not_found")
    passing = exc.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EINTR)
    return ToolError(f"{_quoted(path)} cannot be read: {exc.strerror}", retryable=passing, code="io_error")


def _quoted(path: str) -> str:
    return repr(path if len(path) <= 200 else path[:200] + "…")


_ODD_BYTE: Final = re.compile(r"\\x([89a-f][0-9a-f])")


def _shown(name: bytes) -> str:
    r"""A file's name as text; bytes that are not UTF-8 are written \xHH."""
    return name.decode(errors="backslashreplace")


def _spellings(path: str) -> list[bytes]:
    """What a path as text may be on disk: itself, and with the bytes that _shown wrote out."""
    try:
        plain = path.encode()
    except UnicodeEncodeError:
        raise _refused_argument("path", "must be valid Unicode", "a path", ascii(path[:60])) from None
    if not _ODD_BYTE.search(path):
        return [plain]
    return [plain, _ODD_BYTE.sub(lambda odd: chr(0xDC00 + int(odd[1], 16)), path).encode(errors="surrogateescape")]


def _refused_argument(parameter: str, must: str, expected: str, got: str) -> InputValidationError:
    problem = {"path": f"/{parameter}", "loc": (parameter,), "parameter": parameter, "type": "value"}
    return InputValidationError(problems=[{**problem, "msg": f"'{parameter}' {must}", "expected": expected, "got": got}])


# -- reading ----------------------------------------------------------------------------------------------------------

_CODECS: Final = frozenset(
    "ascii utf_8 utf_16 utf_16_le utf_16_be utf_32 utf_32_le utf_32_be latin_1 "
    "iso8859_2 iso8859_3 iso8859_4 iso8859_5 iso8859_6 iso8859_7 iso8859_8 iso8859_9 iso8859_10 iso8859_11 iso8859_13 "
    "iso8859_14 iso8859_15 iso8859_16 cp437 cp850 cp852 cp855 cp858 cp866 cp874 cp932 cp949 cp950 cp1250 cp1251 cp1252 "
    "cp1253 cp1254 cp1255 cp1256 cp1257 cp1258 koi8_r koi8_u mac_roman shift_jis euc_jp gb2312 gbk gb18030 big5 "
    "euc_kr".split()
)
"""Encodings of text that can be read from any character on: none that shifts states, compresses or is no text."""

_MARKS: Final[Mapping[str, tuple[tuple[bytes, str], ...]]] = {
    "utf_8": ((codecs.BOM_UTF8, "utf_8"),),
    "utf_16": ((codecs.BOM_UTF16_LE, "utf_16_le"), (codecs.BOM_UTF16_BE, "utf_16_be"), (b"", "utf_16_le")),
    "utf_16_le": ((codecs.BOM_UTF16_LE, "utf_16_le"),),
    "utf_16_be": ((codecs.BOM_UTF16_BE, "utf_16_be"),),
    "utf_32": ((codecs.BOM_UTF32_LE, "utf_32_le"), (codecs.BOM_UTF32_BE, "utf_32_be"), (b"", "utf_32_le")),
    "utf_32_le": ((codecs.BOM_UTF32_LE, "utf_32_le"),),
    "utf_32_be": ((codecs.BOM_UTF32_BE, "utf_32_be"),),
}
"""Encoding -> the byte order marks a file in it may begin with, and which encoding each tells."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a file: the text of taken bytes from start on, and whether there are more after them."""

    content: str
    start: int
    taken: int
    more: bool


def _codec(encoding: str) -> str:
    """The codec of an encoding's name; codecs.lookup is not asked, as it imports modules and keeps every name."""
    name = normalize_encoding(encoding[:60]).lower()
    codec = "utf_8" if name == "utf_8_sig" else aliases.get(name, name)
    if codec in _CODECS:
        return codec
    near = difflib.get_close_matches(name, _CODECS, n=1)
    hint = f"; did you mean {near[0].replace('_', '-')!r}?" if near else ""
    known = "utf-8, utf-16, latin-1, cp1252, shift-jis, gb18030 and the like, or base64 for the bytes themselves"
    must = f"must name an encoding such as {known}, got {encoding[:60]!r}{hint}"
    raise _refused_argument("encoding", must, known, repr(encoding[:60]))


def _read_part(path: str, fd: int, codec: str | None, offset: int, count: int) -> Part:
    """At most count bytes from offset on, as text. Part.start is where its first character begins."""
    if codec is None:
        data, more = _read(fd, count - count % 3, offset)  # multiples of 3, so that parts can be put together
        return Part(base64.b64encode(data).decode(), offset, len(data), more)
    start = offset
    head = _pread(fd, 4, 0) if codec in _MARKS else b""
    for mark, marked in _MARKS.get(codec, ()):
        if head.startswith(mark):
            codec, start = marked, max(offset, len(mark))
            break
    if codec.startswith(("utf_16", "utf_32")):
        start += -start % (2 if codec.startswith("utf_16") else 4)
    data, more = _read(fd, count, start)
    if codec == "utf_8" and offset:
        inside = len(data[:3]) - len(data[:3].lstrip(_CONTINUATION))  # the offset lay within a character
        data, start = data[inside:], start + inside
    decoder = codecs.getincrementaldecoder(codec)()
    try:
        content = decoder.decode(data, not more)
    except UnicodeDecodeError as exc:
        at = start + exc.start
        raise ToolError(
            f"{_quoted(path)} is not {codec.replace('_', '-')}: byte {at} is 0x{data[exc.start]:02x}; "
            f"{_advice(_pread(fd, 1024, 0), codec)}",
            code="undecodable",
            details={"offset": at},
        ) from None
    return Part(content, start, len(data) - len(decoder.getstate()[0]), more)


_CONTINUATION: Final = bytes(range(0x80, 0xC0))


def _advice(head: bytes, codec: str) -> str:
    """Which encoding to try for a file that begins with head and is not in codec."""
    for name in ("utf_32", "utf_16"):
        if any(mark and head.startswith(mark) for mark, _ in _MARKS[name]) and not codec.startswith(name):
            return f"it begins as {name.replace('_', '-')} does, so read it with that encoding"
    if b"\0" in head:
        return "it looks like no text, so read it with encoding 'base64'"
    others = [name for name in ("utf-8", "cp1252", "latin-1") if name.replace("-", "_") != codec]
    return f"try {others[0]!r} or {others[1]!r}, or 'base64' for the bytes themselves"


def _read(fd: int, count: int, offset: int) -> tuple[bytes, bool]:
    """At most count bytes, and whether there are more after them."""
    data = _pread(fd, count + 1, offset)
    return data[:count], len(data) > count


def _pread(fd: int, count: int, offset: int) -> bytes:
    """count bytes from offset on, fewer only where the file ends."""
    pieces = []
    while count > 0:
        piece = os.pread(fd, min(count, 1 << 20), offset)
        if not piece:
            break
        pieces.append(piece)
        count, offset = count - len(piece), offset + len(piece)
    return b"".join(pieces)


# -- listing ----------------------------------------------------------------------------------------------------------


class Listing:
    """Collects entries, sorted by name, a directory's own before what is in it, until one of the bounds is met."""

    def __init__(
        self, matches: Callable[[tuple[str, ...]], bool], recursive: bool, limit: int, ctx: ToolContext | None
    ) -> None:
        self.entries: list[dict[str, Any]] = []
        self.truncated = False
        self._matches, self._recursive, self._limit, self._ctx = matches, recursive, limit, ctx
        self._looked_at = 0
        self._full = False

    def add(self, directory: int, above: tuple[str, ...]) -> None:
        """Add what is in a directory; above are the names that lead to it from the listed one."""
        with os.scandir(directory) as found:
            children = list(islice(found, MAX_LOOKED_AT - self._looked_at + 1))
            if len(children) > MAX_LOOKED_AT - self._looked_at:
                self.truncated = True
                children.pop()
            self._looked_at += len(children)
        for name, child in sorted((_shown(os.fsencode(child.name)), child) for child in children):
            if self._ctx is not None:
                self._ctx.raise_if_cancelled()
            names = (*above, name)
            if self._matches(names):
                self._append(names, child)
            if self._full:
                return
            if self._recursive and child.is_dir(follow_symlinks=False):
                self._enter(directory, child.name, names)

    def _append(self, names: tuple[str, ...], child: os.DirEntry[str]) -> None:
        if len(self.entries) == self._limit:
            self._full = self.truncated = True
            return
        try:
            described = _described(child.stat(follow_symlinks=False))
        except FileNotFoundError:  # gone since
            return
        except OSError:
            described = {"type": "other", "size": None, "modified": None}
        self.entries.append({"name": "/".join(names), **described})

    def _enter(self, directory: int, child: str, names: tuple[str, ...]) -> None:
        if len(names) > MAX_DEPTH:
            self.truncated = True
            return
        try:
            inner = os.open(child, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
        except OSError:  # gone since, exchanged for a link, or not for us
            self.truncated = True
            return
        try:
            if is_kernel_interface(os.fstat(inner)):
                self.truncated = True
            else:
                self.add(inner, names)
        finally:
            os.close(inner)


def _matcher(pattern: str | None, recursive: bool) -> Callable[[tuple[str, ...]], bool]:
    """Whether the names from the listed directory to an entry fit a glob; one without '/' is for the last name alone."""
    if pattern is None:
        return lambda names: True
    if "/" not in pattern:
        last = _fits(pattern)
        return lambda names: last(names[-1])
    if not recursive:
        must = f"must not hold '/' unless recursive is true, got {_quoted(pattern)}"
        raise _refused_argument("pattern", must, "a glob for names, or recursive true", _quoted(pattern))
    steps = [None if step == "**" else _fits(step) for step in pattern.strip("/").split("/")]

    def matches(names: tuple[str, ...]) -> bool:
        reached = _past_wildcards({0}, steps)
        for name in names:
            stays = {at for at in reached if at < len(steps) and steps[at] is None}
            moves = {at + 1 for at in reached if at < len(steps) and (step := steps[at]) is not None and step(name)}
            reached = _past_wildcards(stays | moves, steps)
        return len(steps) in reached

    return matches


def _past_wildcards(reached: set[int], steps: Sequence[object]) -> set[int]:
    """Each step reached, and those after a '**', which may stand for nothing."""
    for at in sorted(reached):
        while at < len(steps) and steps[at] is None:
            at += 1
            reached.add(at)
    return reached


def _fits(glob: str) -> Callable[[str], bool]:
    compiled = re.compile(fnmatch.translate(glob))
    return lambda name: compiled.match(name) is not None


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
            "offset": {**_COUNT, "default": 0, "description": "The byte to begin at."},
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
                    "items": _object({"name": {"type": "string", "description": "From the listed directory."}, **_ABOUT}),
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
