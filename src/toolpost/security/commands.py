"""Commands: argument lists made of a template and a call's arguments. No shell ever reads them."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from toolpost.calls.errors import ConfigurationError, InputValidationError

MAX_BYTES: Final = 131_071
"""Most bytes of one argument (Linux: MAX_ARG_STRLEN, less the NUL at its end)."""

_PLACE: Final = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_VERSION: Final = re.compile(r"-?[0-9.]+\Z")
_INTERPRETERS: Final = frozenset(
    "sh bash dash zsh ksh mksh ash busybox fish csh tcsh cmd powershell pwsh python python2 python3 perl ruby node "
    "deno bun php lua tclsh osascript".split()
)
_TO_SHELLS: Final = frozenset("ssh rsh watch parallel".split())
"""Programs that make one text of their arguments and hand it to a shell."""
_BATCH: Final = (".bat", ".cmd")
"""Files that Windows hands to cmd, which reads their arguments as its own language."""
_CODE_FLAG: Final = re.compile(
    r"-[a-zA-Z]*[ceErp]|--(?:eval|command|execute|print)|/[cCkK]|-[Cc]ommand|-EncodedCommand"
)
_STEERING: Final = re.compile(
    r"PATH|IFS|ENV|BASH_ENV|BASH_FUNC_.*|SHELLOPTS|PS4|PROMPT_COMMAND|CDPATH|LD_.*|DYLD_.*|GCONV_PATH|LOCPATH|NLSPATH"
    r"|PYTHON.*|PERL.*|RUBY.*|NODE_.*|JAVA_TOOL_OPTIONS|_JAVA_OPTIONS|JDK_JAVA_OPTIONS|LUA_.*|GIT_.*|SSH_.*|EDITOR"
    r"|VISUAL|PAGER|.*_PAGER|BROWSER|LESSOPEN|LESSCLOSE|HOME|TMPDIR|https?_proxy|all_proxy",
    re.IGNORECASE,
)


def command_line(
    template: Sequence[str], arguments: Mapping[str, Any], *, options_begin: Iterable[str] = ("-",)
) -> list[str]:
    """The argument list of a program: template with each {name} replaced by that argument, to be run without a shell.

    An item that is {name} and nothing else becomes one argument, or one for each item of a list; within an item such
    as "--depth={depth}" the argument becomes part of it, and the item is left out where the argument is None. What an
    argument holds is never split, expanded or read as anything but text.

    Where the program would read options, that is before an item "--", no argument may begin with what options_begin
    lists; some programs need more there: "@" (files of arguments), "+" (vim, tail). Raises InputValidationError for
    that, for NUL, for text that is no Unicode, and for what is too long; ConfigurationError for a template in which an
    argument would name the program, or be code: ["sh", "-c", "ls {path}"].

    Run it with asyncio.create_subprocess_exec(*line) or subprocess.run(line).
    """
    items = _checked(template)
    begins = tuple(options_begin)
    line: list[str] = []
    reads_options = True
    for item in items:
        places = _PLACE.findall(item)
        if not places:
            line.append(item)
            reads_options = reads_options and item != "--"
            continue
        for argument in _filled(item, places, arguments):
            # What the author wrote at an item's beginning, "--depth={depth}", makes it what it is.
            if reads_options and item.startswith("{") and argument.startswith(begins):
                raise _wrong(places[0], f"must not begin with {argument[:1]!r}, which would make it an option")
            line.append(argument)
    return line


def command_environment(keep: Iterable[str] = ("PATH", "LANG", "LC_ALL", "TZ"), **more: str) -> dict[str, str]:
    """The environment of a program: the variables of this process that keep names, and more; nothing else.

    Without it a program is given every variable of this process, its secrets among them. more may hold a call's
    arguments as values, so names that steer programs (LD_PRELOAD, PYTHONPATH, GIT_SSH and the like) are refused there;
    name them in keep. Raises ConfigurationError, and InputValidationError for a value with a NUL.
    """
    kept = {name: os.environ[name] for name in keep if name in os.environ}
    for name, value in more.items():
        if _STEERING.fullmatch(name):
            raise ConfigurationError(f"{name} steers what programs load and run; name it in keep, or leave it out")
        _check_text(name, value)
    return kept | more


def _checked(template: Sequence[str]) -> list[str]:
    if isinstance(template, str) or not template or not all(isinstance(item, str) for item in template):
        raise ConfigurationError(
            "a command is a list of texts, the program first: ['grep', '-r', '--', '{pattern}', '{folder}']"
        )
    items = list(template)
    if not items[0] or "{" in items[0]:
        raise ConfigurationError(f"the program of a command is fixed, got {items[0]!r:.100}")
    program = _program(items[0])
    if (program in _TO_SHELLS or program.endswith(_BATCH)) and any(map(_PLACE.search, items)):
        raise ConfigurationError(
            f"{items[0]} hands its arguments to a shell, to which one could say anything; quote them for that shell "
            "yourself, or run the program itself"
        )
    code = False
    for before, item in itertools.pairwise(items):
        is_program = _VERSION.sub("", _program(before)) in _INTERPRETERS
        code = code or is_program
        place = _PLACE.search(item)
        flag = item[: place.start()].removesuffix("=") if place and (is_program or before[:1] == "-") else ""
        if code and place and (_CODE_FLAG.fullmatch(before) or _CODE_FLAG.fullmatch(flag)):
            raise ConfigurationError(
                f"{item!r:.100} after {before} is code to {items[0]}, in which an argument could say anything; hand "
                "the argument over as one of its own, or run code in the sandbox"
            )
    return items


def _program(item: str) -> str:
    """The name of a program without its folder."""
    return item.replace("\\", "/").rpartition("/")[2].lower().removesuffix(".exe")


def _filled(item: str, places: Sequence[str], arguments: Mapping[str, Any]) -> Iterator[str]:
    """The arguments that an item stands for."""
    if item == f"{{{places[0]}}}":
        value = arguments.get(places[0])
        if value is None:
            raise _wrong(places[0], "is an argument of the command and must not be missing")
        for one in value if isinstance(value, (list, tuple)) else [value]:
            yield _text(places[0], one)
    elif all(arguments.get(name) is not None for name in places):
        yield _PLACE.sub(lambda place: _text(place[1], arguments[place[1]]), item)


def _text(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if not isinstance(value, str):
        raise _wrong(name, "must be text, a number, a boolean or a list of these")
    _check_text(name, value)
    return str(value)


def _check_text(name: str, value: str) -> None:
    if "\0" in value:
        raise _wrong(name, "must not hold NUL, which ends an argument")
    try:
        size = len(os.fsencode(value))
    except UnicodeEncodeError:
        raise _wrong(name, "must be valid Unicode") from None
    if size > MAX_BYTES:
        raise _wrong(name, f"must not have more than {MAX_BYTES} bytes, which is the most for one argument")


def _wrong(name: str, must: str) -> InputValidationError:
    problem = {"path": f"/{name}", "loc": (name,), "parameter": name, "type": "command", "msg": f"'{name}' {must}"}
    return InputValidationError(problems=[problem | {"expected": "an argument of a command", "got": "another"}])


__all__ = ["command_environment", "command_line"]
