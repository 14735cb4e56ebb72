"""Shell.Run, in real sandboxes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.sandbox.played import Played, ended, not_run
from tests.toolbox.boxes import real, sandboxes
from toolpost import (
    ConfigurationError,
    ExecutorConfig,
    Sandbox,
    SandboxError,
    Sandboxes,
    SandboxLimits,
    SandboxNetwork,
    SandboxResult,
    ToolContext,
    ToolResult,
    create_tool_call,
)
from toolpost.calls.events import Event, Progressed
from toolpost.sandbox.backend import Job
from toolpost.testing import executor_for
from toolpost.toolbox import shell_tools, standard_tools
from toolpost.toolbox.programs import MAX_LINE_CHARS, Lines

__all__ = ["sandboxes"]  # a fixture

Run = Callable[..., ToolResult]


@pytest.fixture
def run(sandboxes: Sandboxes) -> Iterator[Run]:
    with executor_for(shell_tools(sandboxes, env=["GREETING"])) as executor:
        yield lambda **arguments: executor.execute_sync(create_tool_call("Shell.Run", arguments))


def test_a_program_is_run_by_its_arguments_which_no_shell_reads(run: Run) -> None:
    result = run(argv=["echo", "$HOME; echo *"])

    assert result.success, result.error
    assert (result.data["status"], result.data["exit_code"]) == ("ok", 0)
    assert (result.data["stdout"], result.data["stderr"], result.data["truncated"]) == ("$HOME; echo *\n", "", False)


def test_a_script_has_pipes_and_the_files_that_came_with_the_call(run: Run) -> None:
    result = run(script="sort data/in.txt | tail -1; cat", files={"data/in.txt": "b\nc\na\n"}, stdin="from stdin")

    assert result.data["stdout"] == "c\nfrom stdin"
    assert result.artifacts == {}  # what was brought in is not handed back


def test_an_exit_code_is_a_result_and_no_error(run: Run) -> None:
    result = run(script="echo trouble >&2; exit 3")

    assert (result.success, result.data["status"], result.data["exit_code"]) == (True, "exit", 3)
    assert result.data["stderr"] == "trouble\n"


def test_a_program_that_is_not_there_is_a_result_too(run: Run) -> None:
    result = run(argv=["no-such-program"])

    assert (result.success, result.data["status"], result.data["exit_code"]) == (True, "exit", 127)


def test_a_signal_is_named_and_counted(sandboxes: Sandboxes) -> None:
    with executor_for(shell_tools(sandboxes)) as executor:
        result = executor.execute_sync(create_tool_call("Shell.Run", {"script": "kill -SEGV $$"}))
        counted = executor.get_metrics()["tools"]["Shell.Run"]["programs"]

    assert (result.data["status"], result.data["signal"]) == ("signal", "SIGSEGV")
    assert result.usage is not None
    assert result.usage.exit_signal == "SIGSEGV"
    assert (counted["runs"], counted["signals"]) == (1, {"SIGSEGV": 1})


def test_files_that_it_leaves_are_artifacts_with_names_and_sizes_in_the_result(run: Run) -> None:
    result = run(script="mkdir made; printf hello > made/one.txt; printf '\\377' > two.bin; ln -s /etc/passwd three")

    assert result.artifacts == {"made/one.txt": b"hello", "two.bin": b"\xff"}
    named = {item["name"]: item["bytes"] for item in result.data["artifacts"]}
    assert named == {"made/one.txt": 5, "two.bin": 1}
    assert "three" in str(result.data["left_behind"])
    assert result.to_dict()["artifacts"] == result.data["artifacts"]


def test_long_output_has_its_head_and_its_tail_and_is_whole_beside_the_result(run: Run) -> None:
    result = run(script="seq 100000")

    whole = "".join(f"{n}\n" for n in range(1, 100001)).encode()
    assert result.data["truncated"]
    assert result.data["stdout"].startswith("1\n2\n")
    assert result.data["stdout"].endswith("99999\n100000\n")
    assert "bytes left out" in result.data["stdout"]
    assert result.data["stdout_bytes"] == len(whole)
    assert result.artifacts == {"stdout.txt": whole}


def test_the_limit_that_was_hit_is_named(run: Run) -> None:
    result = run(argv=["sleep", "60"], timeout_s=0.3)

    assert (result.success, result.data["status"], result.data["exit_code"]) == (True, "limit", None)
    assert result.data["limit"].startswith("killed: 0.3 s of time after 0.")


def test_what_it_used_is_in_the_usage(run: Run) -> None:
    result = run(script="i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; printf 12345")

    assert result.usage is not None
    assert result.usage.cpu_s > 0.0
    assert result.usage.written_bytes >= 5


def test_only_the_environment_variables_that_are_allowed_can_be_set(run: Run) -> None:
    assert run(script="echo $GREETING", env={"GREETING": "hi"}).data["stdout"] == "hi\n"

    refused = run(script="env", env={"OTHER": "x"})

    assert (refused.success, refused.status_code) == (False, 400)


def test_nothing_of_the_engines_environment_is_seen(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S4_CANARY", "canary-value")

    assert "canary" not in run(argv=["env"]).data["stdout"]


@pytest.mark.parametrize("arguments", [{}, {"argv": ["ls"], "script": "ls"}, {"argv": []}, {"argv": [""]}])
def test_what_is_neither_a_program_nor_a_script_is_refused(run: Run, arguments: dict[str, Any]) -> None:
    result = run(**arguments)

    assert (result.success, result.status_code, result.failure.code) == (False, 400, "invalid_input")  # type: ignore[union-attr]


def test_a_script_that_looks_like_an_attack_is_not_screened_for_the_sandbox_is_its_guard(run: Run) -> None:
    script = "cat /etc/shadow; rm -rf / 2>/dev/null; echo \"' OR 1=1 --\"; echo '<script>alert(1)</script>'"

    result = run(script=script)

    assert result.success, result.error
    assert "root:" not in result.data["stdout"]
    assert "OR 1=1" in result.data["stdout"]


# -- lines as they come -----------------------------------------------------------------------------------------------


def told(sandboxes: Sandboxes, **arguments: Any) -> list[Progressed]:
    events: list[Event] = []
    with executor_for(shell_tools(sandboxes)) as executor:
        executor.observe(events.append)
        assert executor.execute_sync(create_tool_call("Shell.Run", arguments)).success
    return [event for event in events if isinstance(event, Progressed)]


def test_lines_are_told_as_they_come(sandboxes: Sandboxes) -> None:
    seen = told(sandboxes, script="echo one; echo two >&2; printf 'no end é'")

    assert {event.message for event in seen} == {"one", "two", "no end é"}
    assert seen[-1].value == 3


def test_a_flood_of_lines_is_told_in_part_and_counted(sandboxes: Sandboxes) -> None:
    seen = told(sandboxes, script="seq 50000; echo the end")

    assert 20 <= len(seen) < 300
    assert seen[-1].value == 50001
    assert "lines are not shown here" in (seen[-1].message or "")


def test_a_line_without_an_end_is_told_in_bounded_size(sandboxes: Sandboxes) -> None:
    seen = told(sandboxes, script="head -c 300000 /dev/zero | tr '\\0' x")

    assert len(seen) == 1
    assert len(seen[0].message or "") <= 1003


# -- sessions ---------------------------------------------------------------------------------------------------------


def test_a_session_keeps_files_for_the_same_caller_and_for_nobody_else(sandboxes: Sandboxes) -> None:
    def call(user: str | None, script: str) -> ToolResult:
        arguments = {"script": script, "session": "work"}
        return executor.execute_sync(create_tool_call("Shell.Run", arguments, user_id=user))

    with executor_for(shell_tools(sandboxes)) as executor:
        first = call("ann", "echo mine > note.txt")
        again = call("ann", "cat note.txt")
        other = call("bob", "cat note.txt")

    assert (first.data["session"], first.data["session_new"], again.data["session_new"]) == ("work", True, False)
    assert again.data["stdout"] == "mine\n"
    assert (other.data["session_new"], other.data["exit_code"]) == (True, 1)


def test_without_a_session_each_call_begins_with_an_empty_folder(run: Run) -> None:
    run(script="echo mine > note.txt")

    assert run(script="ls -A").data["stdout"] == ""


# -- failures ---------------------------------------------------------------------------------------------------------


def test_a_sandbox_that_cannot_be_started_fails_the_call_which_did_not_run_and_may_be_tried_again() -> None:
    def broken(job: Any) -> Any:
        raise not_run("no memory for it")

    with Sandboxes(backend=Played(broken)) as boxes, executor_for(shell_tools(boxes)) as executor:
        result = executor.execute_sync(create_tool_call("Shell.Run", {"argv": ["true"]}))

    assert result.failure is not None
    assert (result.failure.code, result.failure.outcome, result.failure.retryable) == (
        "sandbox_failed",
        "not_run",
        True,
    )
    assert "tried 3 times" in result.failure.message


def test_a_sandbox_that_is_lost_fails_the_call_which_may_have_run() -> None:
    def lost(job: Any) -> Any:
        error = SandboxError("it was killed from outside")
        error.outcome = "unknown"
        raise error

    with Sandboxes(backend=Played(lost)) as boxes, executor_for(shell_tools(boxes)) as executor:
        result = executor.execute_sync(create_tool_call("Shell.Run", {"argv": ["true"]}))

    assert result.failure is not None
    assert (result.failure.code, result.failure.outcome, result.failure.retryable) == (
        "sandbox_failed",
        "unknown",
        False,
    )


def test_too_many_sessions_are_a_failure_that_did_not_run() -> None:
    with Sandboxes(backend=Played(), max_sessions=1) as boxes, executor_for(shell_tools(boxes)) as executor:
        calls = [{"argv": ["true"], "session": name} for name in ("a", "b")]
        first, second = (executor.execute_sync(create_tool_call("Shell.Run", call)) for call in calls)

    assert first.success
    assert second.failure is not None
    assert (second.failure.outcome, second.failure.retryable) == ("not_run", True)
    assert "max_sessions" in second.failure.message


def test_a_cancelled_call_has_its_program_killed(tmp_path: Path) -> None:
    async def cancel(boxes: Sandboxes) -> None:
        with executor_for(shell_tools(boxes)) as executor:
            call = create_tool_call("Shell.Run", {"argv": ["sleep", "60"]})
            task = asyncio.create_task(executor.execute_tool_call(call))
            while not boxes.running:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert boxes.running == 0

    with real(tmp_path) as boxes:
        asyncio.run(cancel(boxes))


def test_a_call_whose_deadline_comes_first_says_so_in_its_result(sandboxes: Sandboxes) -> None:
    with executor_for(shell_tools(sandboxes)) as executor:
        call = create_tool_call("Shell.Run", {"argv": ["sleep", "60"]}, deadline_s=1.2)
        result = executor.execute_sync(call)

    assert result.success, result.error
    assert result.data["limit"].startswith("killed: 0.")


# -- declaring --------------------------------------------------------------------------------------------------------


def test_the_description_tells_of_the_limits_and_the_hints_of_the_network() -> None:
    (alone,) = shell_tools(Sandboxes(Sandbox(limits=SandboxLimits(wall_s=7.0, memory_bytes=64 << 20))))
    (out,) = shell_tools(Sandboxes(Sandbox(network=SandboxNetwork(allow=("pypi.example",)))))

    assert "At most 7 s, 64 MiB of memory" in alone.description
    assert "there is no network" in alone.description
    assert (alone.hints.read_only, alone.hints.destructive, alone.hints.open_world) == (False, False, False)
    assert "pypi.example" in out.description
    assert (out.hints.destructive, out.hints.open_world) == (True, True)
    assert "env" not in alone.parameters["properties"]


@pytest.mark.parametrize("wrong", [None, 5, "native", Sandbox()])
def test_what_are_no_sandboxes_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="give Sandboxes"):
        shell_tools(wrong)


def test_a_profile_under_which_no_program_starts_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="starts no program"):
        shell_tools(Sandboxes(Sandbox(syscalls="strict")))


def test_a_name_that_is_none_of_an_environment_variable_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="names of environment variables"):
        shell_tools(Sandboxes(), env=["A=B"])


def test_the_standard_tools_have_it_when_a_setting_says_so_and_their_executor_closes_it(tmp_path: Path) -> None:
    real(tmp_path / "probe").close()  # which skips where there is none
    config = ExecutorConfig(sandbox_tools=True, sandbox_root=tmp_path / "boxes", timeout=20.0, sandbox_memory_mb=64)
    children = children_of_this_process()

    with executor_for(standard_tools(config)) as executor:
        assert {"Shell.Run", "Code.Python"} <= set(executor.get_available_tools())
        assert children_of_this_process() == children  # nothing is started by having them
        shell = executor.execute_sync(create_tool_call("Shell.Run", {"argv": ["echo", "x"]}))
        first = executor._resources.clients
        code = executor.execute_sync(create_tool_call("Code.Python", {"code": "6 * 7"}))

        assert (shell.data["stdout"], code.data["value"]) == ("x\n", "42")
        assert len(first._made) == 1  # which both share
        assert "64 MiB of memory" in executor.registry.get_tool("Shell.Run").description

    assert children_of_this_process() == children
    assert list((tmp_path / "boxes").glob("*/*")) == []
    assert not {"Shell.Run", "Code.Python"} & {tool.name for tool in standard_tools(ExecutorConfig())}


def children_of_this_process() -> set[int]:
    me = str(os.getpid())
    found = set()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                stat = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if stat[1] == me:
                found.add(int(folder.name))
    return found


def test_two_executors_have_sandboxes_of_their_own(tmp_path: Path) -> None:
    made: list[Sandboxes] = []

    def make() -> Sandboxes:
        made.append(Sandboxes(backend=Played(), root=tmp_path))
        return made[-1]

    tools = shell_tools(make)
    with executor_for(tools) as one:
        with executor_for(tools) as other:
            for executor in (one, other, one):
                assert executor.execute_sync(create_tool_call("Shell.Run", {"argv": ["true"]})).success
        assert one.execute_sync(create_tool_call("Shell.Run", {"argv": ["true"]})).success

    assert len(made) == 3  # the first of them only told of its profile
    assert [boxes._closed for boxes in made[1:]] == [True, True]


def test_no_more_of_a_line_than_is_told_is_held() -> None:
    lines = Lines(ToolContext())

    for _ in range(50):
        lines.take("stdout", b"x" * 65_536)

    assert sum(len(rest) for rest in lines._rests.values()) <= MAX_LINE_CHARS + 1


def test_files_of_a_session_are_handed_on_once_and_again_when_they_change(sandboxes: Sandboxes) -> None:
    with executor_for(shell_tools(sandboxes)) as executor:
        scripts = ["echo 1 > a; echo 1 > b", "true", "echo 2 > b"]
        calls = [create_tool_call("Shell.Run", {"script": script, "session": "once"}) for script in scripts]
        results = [executor.execute_sync(call) for call in calls]

    assert [result.artifacts for result in results] == [{"a": b"1\n", "b": b"1\n"}, {}, {"b": b"2\n"}]


def test_many_files_that_are_left_behind_are_told_in_short(run: Run) -> None:
    result = run(script="i=0; while [ $i -lt 60 ]; do ln -s /etc/passwd l$i; i=$((i+1)); done")

    left = result.data["left_behind"]
    assert len(left) == 21
    assert left[-1] == "and 40 more"


def test_files_that_were_brought_in_are_not_handed_back_by_whatever_back_end_unless_they_changed() -> None:
    def program(job: Job) -> SandboxResult:
        return ended(artifacts={**job.files, "changed": b"new", "made": b""})

    with Sandboxes(backend=Played(program)) as boxes, executor_for(shell_tools(boxes)) as executor:
        arguments = {"argv": ["true"], "files": {"same": "old", "changed": "old"}}
        result = executor.execute_sync(create_tool_call("Shell.Run", arguments))

    assert result.artifacts == {"changed": b"new", "made": b""}
