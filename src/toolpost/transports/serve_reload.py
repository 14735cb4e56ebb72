"""Settings read anew while a gateway runs: what is taken over at once, and what waits for a restart."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from toolpost.calls.errors import ConfigurationError, ToolExecutionError
from toolpost.transports.serve_checks import refuse_divided_settings, refuse_open

if TYPE_CHECKING:
    from toolpost.engine.settings import ExecutorConfig

logger = logging.getLogger("toolpost.serve")

_ASKS_WHO = frozenset({"authentication", "jwt_issuer"})

NEEDS_RESTART = frozenset(
    {
        "access_log",
        "access_log_format",
        "allowed_directories",
        "allowed_file_extensions",
        "blobs_url",
        "data_directory",
        "database_url",
        "max_file_size",
        "plugins",
        "public_url",
        "records_url",
        "sandbox_backend",
        "sandbox_cpu_seconds",
        "sandbox_memory_mb",
        "sandbox_packages",
        "sandbox_root",
        "sandbox_tools",
        "serve_host",
        "serve_port",
        "serve_server",
        "serve_uds",
        "serve_workers",
        "state_prefix",
        "state_url",
        "trusted_proxies",
    }
)
"""Settings that a running gateway does not take over: where it listens, its stores, and how its tools were made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What a config has otherwise than another: settings that are live, and those that are not."""

    live: tuple[str, ...]
    waiting: tuple[str, ...]

    def __str__(self) -> str:
        if not self.live and not self.waiting:
            return "settings read anew: nothing has changed"
        said = [f"taken over: {', '.join(self.live)}"] if self.live else []
        said += [f"in force after a restart: {', '.join(self.waiting)}"] if self.waiting else []
        return f"settings read anew; {'; '.join(said)}"


def changes(now: ExecutorConfig, wanted: ExecutorConfig) -> Changes:
    """What would change."""
    others = [name for name in type(now).model_fields if getattr(now, name) != getattr(wanted, name)]
    return Changes(
        live=tuple(name for name in others if name not in NEEDS_RESTART),
        waiting=tuple(name for name in others if name in NEEDS_RESTART),
    )


def check(now: ExecutorConfig, wanted: ExecutorConfig, found: Changes) -> None:
    """Try settings on an executor of nobody's, as one alone can be right and wrong beside another.

    Raises ConfigurationError; nothing has changed then. What lets everybody in is said as loudly as at the start.
    """
    from toolpost.engine.executor import ToolExecutor
    from toolpost.engine.registry import ToolRegistry

    _refuse_gone(now)
    tried = now.model_copy(update={"plugins": (), "audit": "off"})
    tried.take(wanted, [name for name in found.live if name not in ("plugins", "audit")])
    refuse_divided_settings(tried)
    try:
        with ToolExecutor(tried, registry=ToolRegistry()) as executor:
            warning = refuse_open(tried, executor) if _ASKS_WHO.intersection(found.live) else None
    except ToolExecutionError as exc:
        raise ConfigurationError(exc.message) from exc
    if warning is not None:
        logger.warning("%s", warning)


def _refuse_gone(now: ExecutorConfig) -> None:
    """Refuse to go on without the file that settings came from: all that it said would be as if never set."""
    files = {now.origin(name).removeprefix("file ") for name in type(now).model_fields if _is_of_file(now, name)}
    for path in sorted(files):
        if not os.path.exists(path):
            raise ConfigurationError(
                f"the settings file {path} is gone; put it back, or restart the gateway to go on without it"
            )


def _is_of_file(config: ExecutorConfig, name: str) -> bool:
    return config.origin(name).startswith("file ")


__all__ = ["NEEDS_RESTART", "Changes", "changes", "check"]
