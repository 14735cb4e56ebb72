"""Code.Python, in real sandboxes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from tests.toolbox.boxes import real, sandboxes
from toolpost import Sandbox, Sandboxes, SandboxLimits, SandboxNetwork, ToolResult, create_tool_call
from toolpost.calls.events import Event, Progressed
from toolpost.testing import executor_for
from toolpost.toolbox import code_tools, shell_tools

__all__ = ["sandboxes"]  # a fixture

Run = Callable[..., ToolResult]


@pytest.fixture
def run(sandboxes: Sandboxes) -> Iterator[Run]:
    with executor_for(code_tools(sandboxes)) as executor:
        yield lambda code, **more: executor.execute_sync(create_tool_call("Code.Python", {"code": code, **more}))


def test_what_it_prints_and_the_value_of_its_last_expression_are_told(run: Run) -> None:
    result = run("import sys\nprint('out')\nprint('err', file=sys.stderr)\n{'answer': 6 * 7}")

    assert result.success, result.error
    assert (result.data["stdout"], result.data["stderr"]) == ("out\n", "err\n")
    assert (result.data["value"], result.data["status"], result.data["exit_code"]) == ("{'answer': 42}", "ok", 0)


@pytest.mark.parametrize("code", ["x = 1", "", "None", "def f(): pass"])
def test_a_program_without_a_value_has_none(run: Run, code: str) -> None:
    assert run(code).data["value"] in (None, "None")


def test_an_exception_is_a_result_with_its_traceback(run: Run) -> None:
    result = run("def f():\n    return 1 / 0\nf()")

    assert (result.success, result.data["status"], result.data["exit_code"]) == (True, "exit", 1)
    assert "ZeroDivisionError: division by zero" in result.data["stderr"]
    assert result.data["value"] is None


def test_a_syntax_error_is_a_result_too(run: Run) -> None:
    result = run("def f(:\n")

    assert (result.data["status"], result.data["exit_code"]) == ("exit", 1)
    assert "SyntaxError" in result.data["stderr"]


def test_it_reads_files_and_stdin_and_leaves_files(run: Run) -> None:
    code = (
        "import csv, sys\n"
        "rows = list(csv.reader(open('in.csv')))\n"
        "open('out.txt', 'w').write(str(len(rows)))\n"
        "sys.stdin.read()"
    )

    result = run(code, files={"in.csv": "a,b\n1,2\n"}, stdin="typed")

    assert (result.data["value"], result.artifacts) == ("'typed'", {"out.txt": b"2"})


def test_a_value_that_is_long_is_cut(run: Run) -> None:
    value = run("'x' * 50_000").data["value"]

    assert len(value) < 50_000


def test_the_memory_that_was_used_up_is_named_or_told_by_python_itself(tmp_path: Path) -> None:
    profile = Sandbox(limits=SandboxLimits(memory_bytes=64 << 20, wall_s=20.0))
    code = "kept = []\nwhile True:\n    kept.append(bytearray(b'x' * 1_000_000))"

    with real(tmp_path, profile) as boxes, executor_for(code_tools(boxes)) as executor:
        result = executor.execute_sync(create_tool_call("Code.Python", {"code": code}))

    assert result.success, result.error
    if result.data["status"] == "limit":
        assert result.data["limit"].startswith("killed: 64 MiB of memory after ")
        assert result.usage is not None
        assert (result.usage.peak_memory_bytes or 0) > 32 << 20
    else:  # where there is no cgroup, Python is refused memory
        assert "MemoryError" in result.data["stderr"]


def test_processor_time_that_was_used_up_is_named(tmp_path: Path) -> None:
    profile = Sandbox(limits=SandboxLimits(cpu_s=1.0, wall_s=30.0))

    with real(tmp_path, profile) as boxes, executor_for(code_tools(boxes)) as executor:
        result = executor.execute_sync(create_tool_call("Code.Python", {"code": "while True: pass"}))

    assert result.data["limit"].startswith("killed: 1 s of processor time after ")
    assert result.usage is not None
    assert result.usage.cpu_s > 0.5


def test_a_call_that_is_refused_is_counted_by_its_name(sandboxes: Sandboxes) -> None:
    code = "import ctypes\nctypes.CDLL(None).ptrace(0, 0, 0, 0)"

    with executor_for(code_tools(sandboxes)) as executor:
        result = executor.execute_sync(create_tool_call("Code.Python", {"code": code}))
        counted = executor.get_metrics()["tools"]["Code.Python"]["programs"]["denied_syscalls"]

    assert result.success, result.error
    assert result.usage is not None
    if result.usage.denied_syscalls is not None:  # where the kernel can tell
        assert result.usage.denied_syscalls.get("ptrace") == 1
        assert counted.get("ptrace") == 1


def test_lines_are_told_while_it_runs(sandboxes: Sandboxes) -> None:
    seen: list[tuple[float, str | None]] = []

    def watch(event: Event) -> None:
        if isinstance(event, Progressed):
            seen.append((time.monotonic(), event.message))

    code = "import time\nprint('first', flush=True)\ntime.sleep(0.5)\nprint('last', flush=True)"
    with executor_for(code_tools(sandboxes)) as executor:
        executor.observe(watch)
        assert executor.execute_sync(create_tool_call("Code.Python", {"code": code})).success

    assert [message for _, message in seen] == ["first", "last"]
    assert seen[1][0] - seen[0][0] > 0.3


def test_the_engines_own_packages_cannot_be_imported_unless_the_profile_says_so(run: Run) -> None:
    assert "ModuleNotFoundError" in run("import pydantic").data["stderr"]
    assert "ModuleNotFoundError" in run("import toolpost").data["stderr"]


def test_packages_of_the_profile_can_be_imported_and_are_told_of(tmp_path: Path) -> None:
    version = metadata.version("click")
    profile = Sandbox(packages=("click",), limits=SandboxLimits(wall_s=20.0))

    with real(tmp_path, profile) as boxes, executor_for(code_tools(boxes)) as executor:
        code = "import click\nfrom importlib import metadata\nclick.style('x')[-1:], metadata.version('click')"
        result = executor.execute_sync(create_tool_call("Code.Python", {"code": code}))
        description = executor.registry.get_tool("Code.Python").description

    assert "the standard library and click" in description
    assert version in (result.data["value"] or ""), result.data["stderr"]


def test_a_session_shares_its_files_with_the_shell(sandboxes: Sandboxes) -> None:
    with executor_for(code_tools(sandboxes), shell_tools(sandboxes)) as executor:

        def call(tool: str, **arguments: Any) -> ToolResult:
            return executor.execute_sync(create_tool_call(tool, {"session": "both", **arguments}, user_id="ann"))

        call("Code.Python", code="x = 5\nopen('n', 'w').write('7')")
        shell = call("Shell.Run", argv=["cat", "n"])
        code = call("Code.Python", code="x")

    assert shell.data["stdout"] == "7"
    assert "NameError" in code.data["stderr"]  # files stay, names do not


def test_code_that_looks_like_an_attack_is_not_screened(run: Run) -> None:
    result = run('eval(\'__import__("os").system("echo run")\'); "\' OR 1=1; DROP TABLE users --"')

    assert result.success, result.error
    assert "OR 1=1" in result.data["value"]


# -- the network ------------------------------------------------------------------------------------------------------


class Shop(BaseHTTPRequestHandler):
    """Says ok."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def shop() -> Iterator[int]:
    """A server of this machine; its port."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Shop) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


FETCH = """
import sys, urllib.request
for url in sys.stdin.read().split():
    try:
        print(urllib.request.urlopen(url).read().decode())
    except Exception as error:
        print(error)
"""


def test_hosts_of_the_profile_are_reached_and_others_are_named_as_refused(tmp_path: Path, shop: int) -> None:
    profile = Sandbox(network=SandboxNetwork(allow=(f"127.0.0.1:{shop}",)), limits=SandboxLimits(wall_s=20.0))
    arguments = {"code": FETCH, "stdin": f"http://127.0.0.1:{shop}/ http://example.org/"}
    opened = {"egress_private": ["127.0.0.1"], "egress_allowed_ports": [shop]}

    with real(tmp_path, profile) as boxes:
        with executor_for(code_tools(boxes), **opened) as executor:
            allowed = executor.execute_sync(create_tool_call("Code.Python", arguments))
        with executor_for(code_tools(boxes)) as executor:
            denied = executor.execute_sync(create_tool_call("Code.Python", arguments))

    assert allowed.data["stdout"].startswith("ok\nHTTP Error 403: example.org:80 is not allowed")
    assert allowed.data["refused_hosts"] == ["example.org:80"]
    assert "ok" not in denied.data["stdout"].split()  # what the executor does not let its tools reach
    assert f"127.0.0.1:{shop}" in denied.data["refused_hosts"]
