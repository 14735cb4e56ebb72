"""Ready tools, written with public names only, as anybody else's would be."""

from __future__ import annotations

from functools import partial

from toolpost import ExecutorConfig, ToolDefinition, sandboxes_of
from toolpost.toolbox.code import code_tools
from toolpost.toolbox.files import file_tools
from toolpost.toolbox.shell import shell_tools
from toolpost.toolbox.sql import sql_tools
from toolpost.toolbox.web import web_tools

__all__ = ["code_tools", "file_tools", "shell_tools", "sql_tools", "standard_tools", "web_tools"]


def standard_tools(config: ExecutorConfig | None = None) -> list[ToolDefinition]:
    """The tools of web_tools and file_tools, the latter by allowed_directories, allowed_file_extensions, max_file_size.

    Those of sql_tools are among them when database_url names a database, those of shell_tools and code_tools when
    sandbox_tools is on: they share sandboxes that are made at their first call and closed with its executor.
    config None asks the settings file and the environment, as an executor does. Raises ConfigurationError.
    """
    settings = ExecutorConfig.load() if config is None else config
    sandboxes = partial(sandboxes_of, settings)
    return [
        *web_tools(),
        *file_tools(
            settings.allowed_directories,
            max_bytes=settings.max_file_size,
            extensions=settings.allowed_file_extensions,
        ),
        *(sql_tools(settings.database_url.get_secret_value()) if settings.database_url else ()),
        *((*shell_tools(sandboxes), *code_tools(sandboxes)) if settings.sandbox_tools else ()),
    ]
