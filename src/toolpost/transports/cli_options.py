"""What every command of the command line takes: which tools, which settings, how to answer; and the exit codes."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass, field
from enum import IntEnum
from typing import IO, TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from toolpost.calls.definition import ToolDefinition
    from toolpost.calls.events import Observer
    from toolpost.engine.executor import ToolExecutor
    from toolpost.engine.settings import ExecutorConfig

TOOLBOX = "toolpost.toolbox:standard_tools"
"""What gives the standard tools, called with the config."""

FORMATS = ("openai", "openai-chat", "anthropic", "gemini", "mcp", "toolpost")
"""The formats of transports.wire, which is not imported before a command needs it."""


class ExitCode(IntEnum):
    """How the program ended, for scripts."""

    OK = 0
    FAILED = 1
    USAGE = 2
    REJECTED = 3
    SOME_FAILED = 4
    BUG = 70
    INTERRUPTED = 130
    BROKEN_PIPE = 141


@dataclass(slots=True, kw_only=True)
class Setup:
    """What the shared options ask for. out is standard output, which a tool's own prints do not reach.

    data: whether the stores are those of a gateway's data directory, as far as no URL says otherwise.
    """

    tools: list[str] = field(default_factory=list)
    file: str | None = None
    data: bool = False
    settings: dict[str, str] = field(default_factory=dict)
    toolbox: bool = True
    json: bool = False
    debug: bool = False
    out: IO[str] = field(default_factory=lambda: sys.stdout or open(os.devnull, "w"))  # noqa: SIM115

    def load_config(self) -> ExecutorConfig:
        """The settings: file, over it the environment, over it --set. Raises ConfigurationError."""
        from toolpost.calls.errors import ConfigurationError
        from toolpost.engine.settings import ALIASES, FORMS, ExecutorConfig

        forms = {name: FORMS.get(ALIASES.get(name, name)) for name in self.settings}
        given = {name: form.read(self.settings[name]) if form else self.settings[name] for name, form in forms.items()}
        try:
            return ExecutorConfig.load(given, file=self.file)
        except ConfigurationError as exc:
            raise ConfigurationError(exc.message.replace("(code)", "(--set)")) from exc

    def stores_config(self) -> ExecutorConfig:
        """The settings for commands about what gateways keep: with the stores of a data directory that is there."""
        from toolpost.transports.serve_defaults import embedded, is_used

        config = self.load_config()
        return embedded(config) if self.data or is_used(config) else config

    @contextmanager
    def executor(
        self, observers: Sequence[Observer] = (), config: ExecutorConfig | None = None, **settings: Any
    ) -> Iterator[ToolExecutor]:
        """An executor that knows the tools asked for and no others. What tools print goes to standard error.

        config stands in for the settings that were asked for; settings go over them.
        """
        from toolpost.engine.executor import ToolExecutor
        from toolpost.engine.registry import ToolRegistry

        with ExitStack() as stack:
            stack.enter_context(redirect_stdout(sys.stderr))
            if self.debug:
                stack.enter_context(log_to_stderr(logging.DEBUG))
            if config is None:
                config = self.stores_config() if self.data else self.load_config()
            if settings:
                config = config.model_copy(update=settings)
            self.import_from_here()
            executor = stack.enter_context(ToolExecutor(config, registry=ToolRegistry(), observers=observers))
            for reference in dict.fromkeys(self.tools):
                add_tools(executor, reference)
            if self.toolbox:
                add_tools(executor, TOOLBOX)
            yield executor

    def operating(self) -> AbstractContextManager[ToolExecutor]:
        """executor for commands about what gateways keep."""
        return self.executor(config=self.stores_config())

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Have what operators should know of a gateway or worker written on standard error, with its time.

        Calls that were refused or failed as their tools foresee stand in the access log, and not here.
        """
        with ExitStack() as stack:
            if not self.debug:
                form = "%(asctime)s %(levelname)s %(message)s"
                stack.enter_context(log_to_stderr(logging.WARNING, form, lambda record: not _is_foreseen(record)))
                stack.enter_context(level_of("toolpost.serve", logging.INFO))
            yield

    def import_from_here(self) -> None:
        """Let modules of the working directory be imported, as `python -m` does."""
        here = os.getcwd()
        if here not in sys.path and "" not in sys.path:
            sys.path.insert(0, here)


def add_tools(executor: ToolExecutor, reference: str) -> list[ToolDefinition]:
    """Load the tools a reference names; a standard tool gives way to one of its name that is there already.

    Raises ConfigurationError or PluginError, naming the reference.
    """
    from toolpost.calls.errors import ConfigurationError, PluginError, ToolExecutionError
    from toolpost.engine.executor import definitions_in
    from toolpost.engine.plugins import load_attribute

    try:
        found = load_attribute(reference)
        if reference == TOOLBOX:
            taken = frozenset(executor.registry.list_tools())
            standard = definitions_in(found(executor.config))
            executor.add([definition for definition in standard if definition.name not in taken])
            return standard
        added = executor.add(found)
    except PluginError as exc:
        raise PluginError(f"--tools {reference}: {exc.message}") from exc
    except ToolExecutionError as exc:
        raise ConfigurationError(f"--tools {reference}: {exc.message}") from exc
    except Exception as exc:  # a tool's own constructor may raise anything
        raise PluginError(f"--tools {reference}: {type(exc).__name__}: {exc}") from exc
    if not added:
        raise ConfigurationError(f"--tools {reference}: there is no tool in it")
    return added


@contextmanager
def log_to_stderr(
    level: int, form: str = "%(message)s", wanted: Callable[[logging.LogRecord], bool] = bool
) -> Iterator[None]:
    """Have what toolpost logs, from a level on and if it is wanted, written on standard error."""
    one, handler = logging.getLogger("toolpost"), logging.StreamHandler()
    handler.setFormatter(logging.Formatter(form))
    handler.addFilter(wanted)
    one.addHandler(handler)
    try:
        with level_of("toolpost", level):
            yield
    finally:
        one.removeHandler(handler)


def _is_foreseen(record: logging.LogRecord) -> bool:
    """Whether a record tells how one call ended, without a traceback."""
    return getattr(record, "status", None) is not None and not record.exc_info


@contextmanager
def level_of(logger: str, level: int) -> Iterator[None]:
    """Have a logger take what is of a level or more."""
    one = logging.getLogger(logger)
    before = one.level
    one.setLevel(level)
    try:
        yield
    finally:
        one.setLevel(before)


def _setup(ctx: click.Context) -> Setup:
    return ctx.ensure_object(Setup)


def _take_tools(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> None:
    _setup(ctx).tools.extend(value)


def _take_file(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    if value is not None:
        _setup(ctx).file = value


def _take_data(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    if value is not None:
        _setup(ctx).data = True
        _setup(ctx).settings["data_directory"] = value


def _take_settings(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> None:
    for text in value:
        name, equals, setting = text.partition("=")
        if not name or not equals:
            raise click.BadParameter(f"{text!r} is no setting; write name=value, as cache_size=500")
        _setup(ctx).settings[name.strip().replace("-", "_")] = setting


def _take_flag(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and param.name == "no_toolbox":
        _setup(ctx).toolbox = False
    elif value and param.name == "json":
        _setup(ctx).json = True
    elif value:
        _setup(ctx).debug = True


def _option(*names: str, callback: Any, help: str, **more: Any) -> click.Option:
    return click.Option(names, callback=callback, expose_value=False, help=help, **more)


SHARED: tuple[click.Option, ...] = (
    _option(
        "--tools",
        metavar="REF",
        multiple=True,
        callback=_take_tools,
        help="Load tools: module:attribute, path/to/file.py:attribute, or an entry point's name; repeatable.",
    ),
    _option(
        "--config",
        type=click.Path(exists=True, dir_okay=False),
        callback=_take_file,
        help="Read settings from this TOML file.",
    ),
    _option(
        "--set",
        metavar="NAME=VALUE",
        multiple=True,
        callback=_take_settings,
        help="Set a setting, over file and environment; repeatable.",
    ),
    _option(
        "--data",
        metavar="FOLDER",
        callback=_take_data,
        help="The data directory of a gateway: its records, blobs and key, where no setting names others.",
    ),
    _option("--no-toolbox", is_flag=True, callback=_take_flag, help="Leave the standard tools out."),
    _option("--json", is_flag=True, callback=_take_flag, help="Answer in JSON on standard output."),
    _option("--debug", is_flag=True, callback=_take_flag, help="Log every call, and show tracebacks of errors."),
)
"""Options that may stand before or after any command."""


class SharedOptions(click.Command):
    """A command that takes the shared options too, and lists them apart."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        return [*super().get_params(ctx), *SHARED]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, shared in (("Options", False), ("Options of every command", True)):
            params = [p for p in self.get_params(ctx) if (p in SHARED) is shared]
            records = [record for p in params if (record := p.get_help_record(ctx)) is not None]
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)
        if isinstance(self, click.Group):
            self.format_commands(ctx, formatter)


class Command(SharedOptions):
    """One command."""


class Group(SharedOptions, click.Group):
    """Commands under one name; a name that is not among them is answered with the nearest that is."""

    command_class = Command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, known = args[0], self.list_commands(ctx)
        if name not in known and not name.startswith("-"):
            import difflib

            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            way_out = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
            raise click.UsageError(f"there is no command {name!r}; {way_out}", ctx)
        return super().resolve_command(ctx, args)


pass_setup = click.make_pass_decorator(Setup, ensure=True)
