"""What `toolpost doctor` looks at for gateways: their packages, and the data directory where there is one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from toolpost.transports.cli_findings import Finding, numbers, writable

if TYPE_CHECKING:
    from toolpost.engine.settings import ExecutorConfig

EXTRAS = {
    "serve": {"starlette": "1", "uvicorn": "0.40", "httptools": "0.7", "httpx": "0.28", "websockets": "15"},
    "granian": {"granian": "2.8"},
    "mcp": {"mcp": "2.3"},
}
"""The extras of gateways -> their packages, and the lowest version of each."""

FOR = {"serve": "`toolpost serve`", "granian": "serve_server=granian", "mcp": "`toolpost mcp` and /mcp"}


def examine_extras(config: ExecutorConfig) -> Iterator[Finding]:
    """Whether each extra is there. That one is not is a failure only where a setting asks for it."""
    for extra, packages in EXTRAS.items():
        versions = {name: _version(name) for name in packages}
        missing = [name for name, version in versions.items() if version is None]
        way_out = f"pip install 'toolpost[{extra}]'"
        old = [
            f"{name} {version}"
            for name, version in versions.items()
            if version is not None and numbers(version) < numbers(packages[name])
        ]
        check = f"extra {extra}"
        if not missing and not old:
            found = ", ".join(f"{name} {version}" for name, version in versions.items())
            yield Finding(status="ok", check=check, found=found)
        elif extra == config.serve_server:
            yield Finding(status="fail", check=check, found=f"{', '.join(missing or old)} missing", way_out=way_out)
        elif old:
            yield Finding(status="warn", check=check, found=f"too old: {', '.join(old)}", way_out=way_out)
        else:
            yield Finding(status="ok", check=check, found=f"is not installed; {FOR[extra]} needs it: {way_out}")


def _version(name: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def examine_data(config: ExecutorConfig) -> Iterator[Finding]:
    """Whether the data directory can be written, and its key is safe; nothing where there is none."""
    from toolpost.calls.errors import ConfigurationError
    from toolpost.transports.serve_defaults import KEY, data_directory_of, is_used, key_in

    if not is_used(config):
        return
    folder = data_directory_of(config)
    yield writable("data directory", folder, "set data_directory to a directory that can be written")
    if config.secret_key is None and (folder / KEY).exists():
        try:
            key_in(folder)
        except ConfigurationError as exc:
            yield Finding(status="fail", check="secret key", found=exc.message, way_out="mend it as it says")
        else:
            yield Finding(status="ok", check="secret key", found=f"{folder / KEY}, which nobody else can read")


__all__ = ["examine_data", "examine_extras"]
