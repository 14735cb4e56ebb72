"""What the tests of the command line share: some tools, and ways to run the program."""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
from click.testing import CliRunner, Result

import toolpost
from toolpost import Hints, Tool, ToolContext, ToolError
from toolpost.transports.cli import main

HERE = f"{Path(__file__).resolve()}:ALL"


@Tool(register=False)
def add(a: int, b: int = 2) -> int:
    """Add two numbers."""
    return a + b


@Tool(name="Text.Shout", description="Write it in capitals.\nAs often as wanted.", version="2.1.0", register=False)
async def shout(text: str, times: int = 1) -> dict[str, str]:
    return {"text": text.upper() * times}


@Tool(register=False)
async def echo(
    text: str = "", words: list[str] | None = None, ratio: float = 1.0, loud: bool = False, extra: Any = None
) -> dict[str, Any]:
    """Give back what it was given."""
    return {"text": text, "words": words, "ratio": ratio, "loud": loud, "extra": extra}


@Tool(register=False)
async def fail(code: str = "NOT_FOUND") -> str:
    """Fail with a code."""
    raise ToolError("there is no such thing", code=code)


@Tool(register=False, permissions=("orders:read",), requires_auth=True)
async def orders() -> str:
    """For a known caller with a permission."""
    return "none"


@Tool(register=False, parameters={}, hints=Hints(read_only=True))
async def told(ctx: ToolContext) -> dict[str, Any]:
    """Tell of the call, on the way and in the end."""
    print("printed by the tool")
    ctx.progress(1, 4, "first quarter")
    ctx.log("half way", share=0.5)
    said = {"user": ctx.user_id, "task": ctx.task_id, "has_deadline": ctx.remaining_s() is not None}
    return said if ctx.idempotency_key is None else {**said, "idempotency_key": ctx.idempotency_key}


@Tool(register=False)
async def forever() -> str:
    """Never end by itself."""
    import asyncio

    await asyncio.Event().wait()
    return "unreachable"


@Tool(register=False)
def gated(n: int) -> int:
    """Note that it runs; from the number in GATE on tell the pipe in REACHED, and wait for the pipe in RELEASE."""
    with open(os.environ["NOTES"], "a") as notes:
        notes.write(f"{n}\n")
    if n >= int(os.environ.get("GATE", 1_000_000)):
        with open(os.environ["REACHED"], "w") as reached:
            reached.write("x")
        with open(os.environ["RELEASE"]) as release:
            release.read()
    return n


ALL = [add, shout, echo, fail, orders, told, forever, gated]


def invoke(*arguments: str, tools: bool = True, stdin: str | bytes | None = None) -> Result:
    """Run the program in this process, with the tools above and no others."""
    shared = ["--no-toolbox", *(["--tools", HERE] if tools else [])]
    return CliRunner().invoke(main, [*shared, *arguments], input=stdin)


def answer(*arguments: str, **more: Any) -> Any:
    """What the program answers in JSON."""
    result = invoke(*arguments, **more)
    assert result.exit_code == 0, result.output
    return orjson.loads(result.stdout)


def command(*arguments: str, tools: bool = True) -> list[str]:
    """The program as a process, with the tools above and no others."""
    shared = ["--no-toolbox", *(["--tools", HERE] if tools else [])]
    return [sys.executable, "-m", "toolpost", *shared, *arguments]


def environment(**more: str) -> dict[str, str]:
    """This process's environment, in which toolpost is found from any directory and terminals are as they come."""
    package = str(Path(toolpost.__file__).parent.parent)
    inherited = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS")}
    return {**inherited, "PYTHONPATH": package, "TERM": "xterm-256color", **more}


def process(*arguments: str, tools: bool = True, env: Mapping[str, str] | None = None, **more: Any) -> Any:
    """The program run in a process of its own to its end."""
    more.setdefault("stdin", subprocess.DEVNULL)
    return subprocess.run(
        command(*arguments, tools=tools), env=environment(**(env or {})), capture_output=True, check=False, **more
    )


def on_terminal(*arguments: str, streams: str = "both", **env: str) -> tuple[int, str]:
    """Run the program on a terminal of 160 columns; the exit code, and what was written to the terminal.

    streams says what is connected to it: "both", "stdout" or "stderr"; the other one is thrown away.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 160, 0, 0))
    ends = {name: theirs if streams in (name, "both") else subprocess.DEVNULL for name in ("stdout", "stderr")}
    written: list[bytes] = []

    def read() -> None:
        try:
            while block := os.read(ours, 65536):
                written.append(block)
        except OSError:  # how a terminal says that nobody writes to it any longer
            return

    with subprocess.Popen(command(*arguments), stdin=theirs, env=environment(**env), **ends) as child:
        os.close(theirs)
        reader = threading.Thread(target=read)
        reader.start()
        code = child.wait()
    reader.join()
    os.close(ours)
    return code, b"".join(written).decode()


def write_calls(path: Path, calls: list[Any]) -> Path:
    """A file of calls, one a line; text stands as it is."""
    path.write_text("".join(f"{c if isinstance(c, str) else orjson.dumps(c).decode()}\n" for c in calls))
    return path


def a_call(tool: str, **arguments: Any) -> dict[str, Any]:
    """A call in toolpost's own form."""
    return {"name": tool, "arguments": arguments}


def read_results(path: Path) -> list[dict[str, Any]]:
    """The results in a file, in the order of their calls."""
    records = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    return sorted(records, key=lambda record: (record["line"], record["index"]))
