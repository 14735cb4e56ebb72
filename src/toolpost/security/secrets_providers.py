"""Providers of secrets: the environment, files, the system's keyring, and those that plugins bring."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from toolpost.calls.errors import ConfigurationError, PluginError, SecretUnavailableError

GROUP: Final = "toolpost.secrets"
"""Entry points of other packages: name -> a class (made without arguments) or object with get(path)."""
MAX_BYTES: Final = 1_048_576

logger = logging.getLogger("toolpost")


class Environment:
    """secret://env/NAME: a variable of this process."""

    waits = False
    keeps = False

    def get(self, path: str) -> str:
        """The variable's value. Raises KeyError; a variable that is empty is as good as none."""
        value = os.environ.get(path)
        if not value:
            raise KeyError(path)
        return value


class Files:
    """secret://file/path: a file in or below one of some directories, less a newline at its end.

    The path may be relative to any of them, or absolute and within one: secret://file//run/secrets/db. Links are
    followed, as orchestrators mount secrets by links, but lead nowhere else. A file that others may write is refused;
    one that others may read is told of in the log, once.
    """

    def __init__(self, directories: Sequence[Path | str]) -> None:
        self._directories = [Path(directory) for directory in directories]
        self._told: set[Path] = set()

    def get(self, path: str) -> bytes:
        """The file's content."""
        shown = f"secret://file/{path}"
        for directory in self._directories:
            root = directory.resolve()
            found = (root / path).resolve()
            if found.is_relative_to(root) and found != root and os.path.lexists(root / path):
                return self._read(found, shown)
        where = ", ".join(map(str, self._directories)) or "any directory, as secrets_directories is empty"
        raise SecretUnavailableError(f"{shown}: there is no such file below {where}", details={"reference": shown})

    def _read(self, path: Path, shown: str) -> bytes:
        try:
            # Without waiting for a writer, should it be a pipe.
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0))
        except OSError as error:
            raise SecretUnavailableError(f"{shown}: {error.strerror}", details={"reference": shown}) from None
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise SecretUnavailableError(f"{shown}: it is no file", details={"reference": shown})
            if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise SecretUnavailableError(
                    f"{shown}: others than its owner may write it; chmod go-w", details={"reference": shown}
                )
            if status.st_mode & stat.S_IROTH and path not in self._told:
                self._told.add(path)
                logger.warning("%s can be read by every user of this machine; chmod o-r", shown)
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise SecretUnavailableError(f"{shown}: it has more than {MAX_BYTES} bytes", details={"reference": shown})
        return content.removesuffix(b"\n").removesuffix(b"\r")


class Keyring:
    """secret://keyring/service/name: an entry of the keyring that the package of that name is set to, or finds."""

    def __init__(self) -> None:
        try:
            import keyring
        except ModuleNotFoundError as missing:
            raise ConfigurationError(
                f"secret://keyring needs the package {missing.name}; install toolpost[keyring]"
            ) from missing
        self._keyring: Any = keyring

    def get(self, path: str) -> str:
        """The entry's password."""
        service, slash, name = path.rpartition("/")
        if not slash or not service or not name:
            raise ConfigurationError(f"secret://keyring/{path} must be secret://keyring/service/name")
        value = self._keyring.get_password(service, name)
        if value is None:
            raise KeyError(path)
        return str(value)


def provider_named(name: str, directories: Sequence[Path | str]) -> Any:
    """The provider of a name: a built-in one, or a plugin's. Raises SecretUnavailableError, PluginError."""
    if name == "env":
        return Environment()
    if name == "file":
        return Files(directories)
    if name == "keyring":
        return Keyring()
    points = {point.name: point for point in metadata.entry_points(group=GROUP)}
    if name not in points:
        known = ", ".join(sorted({"env", "file", "keyring", *points}))
        raise SecretUnavailableError(f"no provider of secrets is named {name!r}; there are {known}")
    try:
        loaded = points[name].load()
        provider = loaded() if isinstance(loaded, type) else loaded
    except Exception as raised:
        raise PluginError(f"secrets {name!r} could not be loaded ({type(raised).__name__}: {raised})") from raised
    if not callable(getattr(provider, "get", None)):
        raise PluginError(f"secrets {name!r} must give an object with get(path), got {type(provider).__name__}")
    return provider


__all__ = ["Environment", "Files", "GROUP", "Keyring", "provider_named"]
