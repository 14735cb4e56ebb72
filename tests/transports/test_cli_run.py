"""`toolpost run`: what goes in, what comes out, and that no cut loses or repeats a call."""

import os
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.transports.cli_shop import (
    HERE,
    a_call,
    command,
    environment,
    invoke,
    on_terminal,
    read_results,
    write_calls,
)

MIXED: list[Any] = [
    a_call("add", a=1),
    {"type": "function_call", "call_id": "c2", "name": "add", "arguments": '{"a": 2}'},
    {"id": "c3", "type": "function", "function": {"name": "Text__Shout", "arguments": '{"text": "x"}'}},
    {"type": "tool_use", "id": "c4", "name": "Text__Shout", "input": {"text": "y"}},
    {"functionCall": {"name": "Text.Shout", "args": {"text": "z"}}},
    {"jsonrpc": "2.0", "id": 6, "method": "tools/call", "params": {"name": "fail", "arguments": {}}},
    "",
    "not json",
    [a_call("add", a="x"), {"nothing": 1}, a_call("add", a=5)],
    a_call("nowhere"),
    {"role": "assistant", "content": "no call in it"},
    {"id": "c12", "type": "function", "function": {"name": "add", "arguments": '{"a": '}},
]


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    return write_calls(tmp_path / "calls.jsonl", MIXED)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return tmp_path / "results.jsonl"


def gate(folder: Path, number: int) -> dict[str, str]:
    """Pipes for the tool `gated`, and the environment that makes it wait in them from a number on."""
    for name in ("reached", "release"):
        if not (folder / name).exists():
            os.mkfifo(folder / name)
    paths = {"NOTES": "notes", "REACHED": "reached", "RELEASE": "release"}
    return environment(GATE=str(number), **{name: f"{folder / path}" for name, path in paths.items()})


def test_every_call_of_a_mixed_file_gets_one_result_with_its_place(calls: Path, results: Path) -> None:
    ended = invoke("run", f"{calls}", "-o", f"{results}")

    assert ended.exit_code == 4
    assert [(r["line"], r["index"], r["format"], r["status"], r.get("code")) for r in read_results(results)] == [
        (1, 0, "toolpost", "ok", None),
        (2, 0, "openai", "ok", None),
        (3, 0, "openai-chat", "ok", None),
        (4, 0, "anthropic", "ok", None),
        (5, 0, "gemini", "ok", None),
        (6, 0, "mcp", "failed", "NOT_FOUND"),
        (8, 0, None, "rejected", "invalid_input"),
        (9, 0, "toolpost", "rejected", "invalid_input"),
        (9, 1, None, "rejected", "invalid_input"),
        (9, 2, "toolpost", "ok", None),
        (10, 0, "toolpost", "rejected", "unknown_tool"),
        (12, 0, "openai-chat", "rejected", "invalid_input"),
    ]


def test_results_are_written_in_the_form_of_their_calls(calls: Path, results: Path) -> None:
    invoke("run", f"{calls}", "-o", f"{results}", "--results-format", "same")

    told = {record["line"]: record["result"] for record in read_results(results)}
    assert told[2] == {"type": "function_call_output", "call_id": "c2", "output": '{"result":4}'}
    assert told[4] == {"type": "tool_result", "tool_use_id": "c4", "content": '{"text":"Y"}'}
    assert told[5] == {"functionResponse": {"name": "Text.Shout", "response": {"output": {"text": "Z"}}}}
    assert told[6]["isError"] is True
    assert told[8]["success"] is False


def test_the_summary_counts_by_tool_and_by_error(calls: Path, results: Path) -> None:
    told = orjson.loads(invoke("run", f"{calls}", "-o", f"{results}", "--json").stdout)

    assert (told["calls"], told["ok"], told["rejected"], told["failed"]) == (12, 6, 5, 1)
    assert told["errors"] == {"invalid_input": 4, "unknown_tool": 1, "NOT_FOUND": 1}
    assert {name: tally["calls"] for name, tally in told["tools"].items()} == {
        "(unknown tool)": 1,
        "(unreadable)": 2,
        "Text.Shout": 3,
        "add": 5,
        "fail": 1,
    }
    assert told["tools"]["add"]["p50_ms"] <= told["tools"]["add"]["p95_ms"]
    assert (told["lines"], told["run"], told["ended"]) == (12, 12, "end")


def test_the_summary_is_a_table_for_people(calls: Path, results: Path) -> None:
    shown = invoke("run", f"{calls}", "-o", f"{results}").stdout

    assert re.search(r"^tool +calls +ok +rejected +failed +cache hits +replays +p50 +p95$", shown, re.MULTILINE)
    assert re.search(r"^Text.Shout +3 +3 +0 +0 +0 ", shown, re.MULTILINE)
    assert re.search(r"^all +12 +6 +5 +1 +0 ", shown, re.MULTILINE)
    assert re.search(r"^NOT_FOUND +1$", shown, re.MULTILINE)
    assert "12 calls run in" in shown


def test_without_a_file_results_go_to_standard_output_and_the_summary_beside_it(calls: Path) -> None:
    ended = invoke("run", f"{calls}", "--json")

    assert len([orjson.loads(line) for line in ended.stdout.splitlines()]) == 12
    assert orjson.loads(ended.stderr)["calls"] == 12


def test_calls_come_from_standard_input_too() -> None:
    ended = invoke("run", "-", stdin='{"name": "add", "arguments": {"a": 1}}')

    assert ended.exit_code == 0
    assert orjson.loads(ended.stdout)["data"] == {"result": 3}


def test_an_empty_file_is_a_run_without_calls(tmp_path: Path, results: Path) -> None:
    ended = invoke("run", f"{write_calls(tmp_path / 'none.jsonl', [])}", "-o", f"{results}")

    assert ended.exit_code == 0
    assert "0 calls run" in ended.stdout


def test_a_given_format_is_taken_for_granted(tmp_path: Path) -> None:
    calls = write_calls(tmp_path / "calls.jsonl", [{"name": "Text__Shout", "arguments": '{"text": "x"}'}])

    assert orjson.loads(invoke("run", f"{calls}", "--format", "openai").stdout)["data"] == {"text": "X"}


def test_user_and_scope_hold_for_every_call(tmp_path: Path) -> None:
    calls = write_calls(tmp_path / "calls.jsonl", [{**a_call("orders"), "user_id": "mallory"}])

    ended = invoke("run", f"{calls}", "--user", "ada", "--scope", "orders:read")

    assert ended.exit_code == 0
    assert orjson.loads(ended.stdout)["metadata"]["user_id"] == "ada"


def test_exit_zero_is_for_runs_whose_failures_are_expected(calls: Path) -> None:
    assert invoke("run", f"{calls}", "--exit-zero").exit_code == 0


def test_fail_fast_takes_up_nothing_after_a_failure(tmp_path: Path, results: Path) -> None:
    calls = write_calls(tmp_path / "calls.jsonl", [a_call("add", a=1), a_call("fail"), *[a_call("add", a=1)] * 50])

    ended = invoke("run", f"{calls}", "-o", f"{results}", "--fail-fast", "--concurrency", "1")

    assert ended.exit_code == 4
    assert [r["status"] for r in read_results(results)] == ["ok", "failed"]
    assert f"stopped at line 2 of {calls} (fail: there is no such thing (NOT_FOUND)); the same" in ended.stderr


def test_fail_fast_stops_at_an_unreadable_line_too(tmp_path: Path, results: Path) -> None:
    calls = write_calls(tmp_path / "calls.jsonl", ["{", a_call("add", a=1)])

    assert invoke("run", f"{calls}", "-o", f"{results}", "--fail-fast").exit_code == 4
    assert len(read_results(results)) == 1


def test_a_deadline_ends_calls_under_way_and_leaves_the_others_for_a_later_run(tmp_path: Path, results: Path) -> None:
    calls = write_calls(tmp_path / "calls.jsonl", [a_call("forever"), a_call("forever"), a_call("add", a=1)])
    run = ("run", f"{calls}", "-o", f"{results}", "--concurrency", "2")

    ended = invoke(*run, "--deadline", "0.2")
    again = invoke(*run)

    assert ended.exit_code == 4
    assert "the deadline passed" in ended.stderr
    assert again.exit_code == 4
    assert [(r["line"], r.get("code")) for r in read_results(results)] == [(1, "timeout"), (2, "timeout"), (3, None)]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["none.jsonl"], "none.jsonl: No such file or directory"),
        (["CALLS", "-o", "CALLS"], "is the file of calls itself"),
        (["CALLS", "-o", "missing/results.jsonl"], "missing/results.jsonl: No such file or directory"),
        (["CALLS", "--restart"], "name it with -o"),
        (["CALLS", "--concurrency", "0"], "--concurrency"),
        (["CALLS", "--format", "openia"], "openai"),
    ],
)
def test_a_run_that_cannot_begin_says_why(calls: Path, arguments: list[str], said: str) -> None:
    ended = invoke("run", *(argument.replace("CALLS", str(calls)) for argument in arguments))

    assert (ended.exit_code, ended.stdout) == (2, "")
    assert said in ended.stderr


def test_a_full_disk_is_told_with_the_name_of_the_file(calls: Path) -> None:
    ended = invoke("run", f"{calls}", "-o", "/dev/full")

    assert ended.exit_code == 2
    assert ended.stderr == "error: /dev/full: No space left on device\n"


# -- going on


def test_calls_that_have_a_result_are_not_run_again(calls: Path, results: Path) -> None:
    invoke("run", f"{calls}", "-o", f"{results}")
    before = results.read_bytes()

    ended = invoke("run", f"{calls}", "-o", f"{results}", "--json")

    told = orjson.loads(ended.stdout)
    assert (told["calls"], told["earlier"], told["run"]) == (12, 12, 0)
    assert results.read_bytes() == before
    assert "holds 12 results" in ended.stderr


def test_restart_forgets_earlier_results(calls: Path, results: Path) -> None:
    invoke("run", f"{calls}", "-o", f"{results}")

    told = orjson.loads(invoke("run", f"{calls}", "-o", f"{results}", "--restart", "--json").stdout)

    assert (told["calls"], told["earlier"], told["run"]) == (12, 0, 12)
    assert len(read_results(results)) == 12


def test_changed_lines_run_again_and_their_old_results_go(tmp_path: Path, results: Path) -> None:
    calls = write_calls(tmp_path / "calls.jsonl", [a_call("add", a=n) for n in range(5)])
    invoke("run", f"{calls}", "-o", f"{results}")
    write_calls(calls, [a_call("add", a=0), a_call("add", a=100), "", a_call("add", a=3)])

    ended = invoke("run", f"{calls}", "-o", f"{results}", "--json")

    assert [(r["line"], r["data"]["result"]) for r in read_results(results)] == [(1, 2), (2, 102), (4, 5)]
    assert f"{calls} has changed: 2 lines run again, 3 old results dropped" in ended.stderr
    assert orjson.loads(ended.stdout)["calls"] == 3


def test_the_same_lines_read_in_another_format_are_other_calls(tmp_path: Path, results: Path) -> None:
    calls = write_calls(tmp_path / "calls.jsonl", [a_call("add", a=1)])
    assert invoke("run", f"{calls}", "-o", f"{results}", "--format", "anthropic").exit_code == 4

    assert invoke("run", f"{calls}", "-o", f"{results}").exit_code == 0
    assert [r["status"] for r in read_results(results)] == ["ok"]


def test_a_killed_run_goes_on_and_every_call_has_one_result(tmp_path: Path, results: Path) -> None:
    calls = write_calls(tmp_path / "calls.jsonl", [a_call("gated", n=n) for n in range(100)])
    run = command("run", str(calls), "-o", str(results), "--concurrency", "3")
    with subprocess.Popen(run, env=gate(tmp_path, 60), stderr=subprocess.DEVNULL) as child:
        (tmp_path / "reached").read_text()
        child.kill()
    had = {record["line"] for record in map(orjson.loads, results.read_bytes().splitlines(keepends=True)[:-1])}

    ended = subprocess.run(run, env=gate(tmp_path, 1000), capture_output=True, check=False)

    assert child.returncode == -signal.SIGKILL
    assert ended.returncode == 0
    assert [record["line"] for record in read_results(results)] == list(range(1, 101))
    runs = Counter(int(n) for n in (tmp_path / "notes").read_text().split())
    assert {n + 1 for n, times in runs.items() if times > 1}.isdisjoint(had)
    assert sum(runs.values()) <= 100 + 20


def test_ctrl_c_waits_for_calls_under_way_and_says_how_to_go_on(tmp_path: Path, results: Path) -> None:
    calls = write_calls(tmp_path / "calls.jsonl", [a_call("gated", n=n) for n in range(50)])
    run = command("run", str(calls), "-o", str(results), "--concurrency", "1")
    with subprocess.Popen(run, env=gate(tmp_path, 10), stderr=subprocess.PIPE, text=True) as child:
        assert child.stderr is not None
        (tmp_path / "reached").read_text()
        child.send_signal(signal.SIGINT)
        first = child.stderr.readline()
        (tmp_path / "release").write_text("")
        said = child.stderr.read()

    assert child.returncode == 130
    assert first == "waiting for 1 calls under way; interrupt again to give them up\n"
    assert f"interrupted after line 11 of {calls}; the same command goes on from {results}" in said
    assert [record["line"] for record in read_results(results)] == list(range(1, 12))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_second_interrupt_gives_up_what_is_under_way(
    tmp_path: Path, results: Path, number: signal.Signals, code: int
) -> None:
    calls = write_calls(tmp_path / "calls.jsonl", [a_call("gated", n=n) for n in range(50)])
    run = command("run", str(calls), "-o", str(results), "--concurrency", "1")
    with subprocess.Popen(run, env=gate(tmp_path, 10), stderr=subprocess.PIPE, text=True) as child:
        assert child.stderr is not None
        (tmp_path / "reached").read_text()
        child.send_signal(number)
        child.stderr.readline()
        child.send_signal(number)
        said = child.stderr.read()

    assert child.returncode == code
    assert "the same command goes on" in said
    assert len(read_results(results)) == 10


def test_two_runs_do_not_write_to_one_file(tmp_path: Path, results: Path) -> None:
    calls = write_calls(tmp_path / "calls.jsonl", [a_call("gated", n=n) for n in range(5)])
    run = command("run", str(calls), "-o", str(results))
    with subprocess.Popen(run, env=gate(tmp_path, 0), stderr=subprocess.DEVNULL) as child:
        (tmp_path / "reached").read_text()
        second = invoke("run", str(calls), "-o", str(results))
        child.kill()

    assert second.exit_code == 2
    assert "is being written by another run" in second.stderr


# -- pipes, memory, terminals


def test_a_result_comes_before_the_next_call_is_written() -> None:
    with subprocess.Popen(
        command("run", "-"), env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        told = []
        for n in range(3):
            child.stdin.write(orjson.dumps(a_call("add", a=n)) + b"\n")
            child.stdin.flush()
            told.append(orjson.loads(child.stdout.readline())["data"]["result"])
        child.communicate()

    assert child.returncode == 0
    assert told == [2, 3, 4]


def test_ctrl_c_ends_a_run_that_waits_for_input() -> None:
    with subprocess.Popen(
        command("run", "-"), env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(orjson.dumps(a_call("add", a=1)) + b"\n")
        child.stdin.flush()
        child.stdout.readline()
        child.send_signal(signal.SIGINT)
        _, said = child.communicate()

    assert child.returncode == 130
    assert b"interrupted after line 1 of -; with -o FILE" in said
    assert b"Traceback" not in said
    assert b"Fatal" not in said


def test_a_deadline_ends_a_run_that_waits_for_input() -> None:
    with subprocess.Popen(
        command("run", "-", "--deadline", "0.2"), env=environment(), stdin=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        assert child.stderr is not None
        said = child.stderr.read()

    assert child.returncode == 4
    assert b"the deadline passed" in said


def test_a_reader_of_results_that_goes_away_ends_the_run_quietly(tmp_path: Path) -> None:
    calls = write_calls(tmp_path / "calls.jsonl", [a_call("add", a=1)] * 500)
    with subprocess.Popen(
        command("run", str(calls)), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.readline()
        child.stdout.close()
        said = child.stderr.read()

    assert (child.returncode, said) == (141, b"")


def test_memory_does_not_grow_with_the_number_of_calls(tmp_path: Path) -> None:
    """Over 200 ms because it runs 20,000 calls, of 2,000 characters each."""
    script = (
        "import re, sys\nfrom toolpost.transports.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        # not getrusage: its peak takes in the parent's memory, from before the program was loaded
        "print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])"
    )

    def peak_kib(number: int) -> int:
        calls = write_calls(tmp_path / f"{number}.jsonl", [a_call("echo", text="x" * 2000)] * number)
        run = ["--no-toolbox", "--tools", HERE, "run", str(calls), "-o", str(tmp_path / f"{number}.out"), "--json"]
        ended = subprocess.run([sys.executable, "-c", script, *run], env=environment(), capture_output=True, check=True)
        summary, peak = ended.stdout.splitlines()
        assert orjson.loads(summary)["ok"] == number
        return int(peak)

    assert peak_kib(20_000) - peak_kib(2_000) < 6_000


def test_a_terminal_shows_a_bar_with_rate_and_time_left(tmp_path: Path, results: Path) -> None:
    calls = write_calls(tmp_path / "calls.jsonl", [a_call("add", a=1)] * 200 + [a_call("fail")])

    code, shown = on_terminal("run", str(calls), "-o", str(results))

    assert code == 4
    assert re.search(r"━+.*201/201 lines  201 calls  [\d,]+/s  1 not ok  eta 0:00", shown)
    assert "p95" in shown


def test_no_color_takes_the_colour_from_the_bar_and_leaves_the_bar(tmp_path: Path, results: Path) -> None:
    calls = write_calls(tmp_path / "calls.jsonl", [a_call("add", a=1)] * 20)

    _, shown = on_terminal("run", str(calls), "-o", str(results), NO_COLOR="1")

    assert "20/20 lines" in shown
    assert re.findall(r"\x1b\[[0-9;]*m", shown) == []


def test_no_bar_is_drawn_where_results_go_to_the_terminal(tmp_path: Path) -> None:
    calls = write_calls(tmp_path / "calls.jsonl", [a_call("add", a=1)] * 20)

    _, shown = on_terminal("run", str(calls))

    assert "lines" not in shown
    assert shown.count('"status":"ok"') == 20
