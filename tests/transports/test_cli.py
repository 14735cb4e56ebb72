"""The commands `tools`, `call` and `config`, and how the program answers, fails and ends."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.transports.cli_shop import HERE, answer, command, environment, invoke, on_terminal, process
from toolpost.transports.cli_options import FORMATS
from toolpost.transports.wire import FORMATS as WIRE_FORMATS

ESCAPE = "\x1b"


def test_help_names_every_command_and_exit_code_and_loads_no_engine() -> None:
    script = (
        "import sys\nfrom toolpost.transports.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as ended:\n    code = ended.code\n"
        "print('LOADED', code, *sorted({'pydantic', 'rich', 'jsonschema_rs', 'asyncio'} & set(sys.modules)))"
    )

    run = subprocess.run([sys.executable, "-c", script], env=environment(), capture_output=True, text=True, check=True)

    for word in ("tools", "call", "run", "config", "doctor", "Exit codes", "130"):
        assert word in run.stdout
    assert run.stdout.splitlines()[-1] == "LOADED 0"


def test_the_version_is_printed() -> None:
    import toolpost

    assert invoke("--version").stdout == f"toolpost {toolpost.__version__}\n"


def test_the_formats_offered_are_those_of_the_wire() -> None:
    assert FORMATS == WIRE_FORMATS


# -- tools


def test_tools_are_listed_with_version_and_description_on_one_line_each() -> None:
    lines = invoke("tools", "list").stdout.splitlines()

    assert lines[0].split() == ["tool", "version", "description"]
    assert "Text.Shout  2.1.0    Write it in capitals. As often as wanted." in lines
    assert len(lines) == 9


def test_only_the_tools_named_are_listed() -> None:
    names = [
        tool["name"] for tool in answer("tools", "list", "--tools", HERE.replace("ALL", "add"), "--json", tools=False)
    ]

    assert names == ["add"]


@pytest.mark.parametrize("format", FORMATS)
def test_tools_are_listed_in_every_providers_form(format: str) -> None:
    exported = answer("tools", "list", "--format", format)

    assert "Shout" in str(exported)


def test_strict_tools_are_marked_and_others_explained() -> None:
    result = invoke("tools", "list", "--format", "openai", "--strict")

    by_name = {tool["name"]: tool["strict"] for tool in orjson.loads(result.stdout)}
    assert by_name["add"] is True
    assert by_name["echo"] is False
    assert "echo is not strict: " in result.stderr


def test_search_finds_by_words_of_name_and_description() -> None:
    assert [tool["name"] for tool in answer("tools", "search", "capitals", "--json")] == ["Text.Shout"]


def test_a_search_without_hits_says_so_and_is_no_error() -> None:
    result = invoke("tools", "search", "zebra")

    assert result.exit_code == 0
    assert "no tool matches 'zebra'" in result.stderr


def test_a_tool_is_shown_with_its_parameters_and_schema() -> None:
    shown = invoke("tools", "show", "add").stdout

    assert "Add two numbers." in shown
    assert re.search(r"^a +integer +yes$", shown, re.MULTILINE)
    assert re.search(r"^b +integer +2$", shown, re.MULTILINE)
    schema = orjson.loads(shown.partition("schema:\n")[2])
    assert schema["required"] == ["a"]


def test_a_tool_is_shown_in_a_version() -> None:
    assert answer("tools", "show", "Text.Shout@2.1.0", "--json")["version"] == "2.1.0"
    assert invoke("tools", "show", "Text.Shout@9").exit_code == 2


def test_one_tool_is_shown_in_a_providers_form() -> None:
    assert answer("tools", "show", "Text.Shout", "--format", "anthropic")["name"] == "Text__Shout"


# -- call


def test_a_value_is_printed_as_json_on_one_line() -> None:
    assert invoke("call", "Text.Shout", "text=hey", "times=2").stdout == '{"text":"HEYHEY"}\n'


def test_values_are_read_by_the_types_of_the_parameters(tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_text("from a file\n")

    given = answer(
        "call", "echo", f"text=@{tmp_path}/long.txt", 'words=["a","b"]', "ratio=0.5", "loud=true", "extra:=[1,null]"
    )

    assert given == {
        "text": "from a file\n",
        "words": ["a", "b"],
        "ratio": 0.5,
        "loud": True,
        "extra": [1, None],
    }


def test_text_that_looks_like_a_number_stays_text() -> None:
    assert answer("call", "echo", "text=007", "extra=12")["text"] == "007"


@pytest.mark.parametrize("where", [["--arguments", '{"a": 4}'], ["-"], ["--arguments", "-"]])
def test_arguments_are_taken_as_one_json_object(where: list[str]) -> None:
    assert answer("call", "add", *where, stdin='{"a": 4}') == {"result": 6}


def test_pairs_stand_over_arguments() -> None:
    assert answer("call", "add", "b=10", "--arguments", '{"a": 4, "b": 1}') == {"result": 14}


def test_caller_task_and_deadline_reach_the_tool() -> None:
    result = invoke("call", "told", "--user", "ada", "--task", "t1", "--deadline", "5")

    assert orjson.loads(result.stdout) == {"user": "ada", "task": "t1", "has_deadline": True}


def test_what_a_tool_prints_does_not_stand_among_the_output() -> None:
    result = invoke("call", "told")

    assert "printed by the tool" not in result.stdout
    assert "printed by the tool" in result.stderr


def test_scopes_let_a_caller_through() -> None:
    assert invoke("call", "orders", "--user", "ada").exit_code == 3
    assert invoke("call", "orders", "--user", "ada", "--scope", "orders:read").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["fail"], 1, "error: fail: there is no such thing (NOT_FOUND)"),
        (["forever", "--deadline", "0.05"], 1, "(timeout)"),
        (["add", "a=x"], 3, "'a' must be an integer, got 'x'"),
        (["add", "a=1", "c=1"], 3, "(invalid_input)"),
        (["add"], 3, "(invalid_input)"),
        (["ad", "a=1"], 3, "did you mean 'add'?"),
        (["add", "a=@missing.txt"], 3, "'missing.txt' cannot be read (No such file or directory)"),
        (["add", "--arguments", "[1]"], 3, "arguments must be a JSON object, got array"),
        (["add", "--arguments", '{"a": 1, "a": 2}'], 3, "given twice"),
        (["add", "a"], 2, "write name=value, name:=json or name=@file"),
        (["add", "a=1", "a=2"], 2, "'a' is given twice"),
        (["add", "a=1", "--deadline", "0"], 2, "--deadline"),
    ],
)
def test_how_a_call_went_wrong_is_told_by_exit_code_and_sentence(arguments: list[str], code: int, said: str) -> None:
    result = invoke("call", *arguments)

    assert (result.exit_code, result.stdout) == (code, "")
    assert said in result.stderr


@pytest.mark.parametrize(("arguments", "code"), [(["add", "a=1"], 0), (["fail"], 1), (["add", "a=x"], 3)])
def test_json_gives_the_whole_result_however_the_call_ended(arguments: list[str], code: int) -> None:
    result = invoke("call", *arguments, "--json")

    told = orjson.loads(result.stdout)
    assert result.exit_code == code
    assert told["success"] is (code == 0)
    assert told["tool_name"] == arguments[0]


def test_every_value_that_cannot_be_read_is_listed() -> None:
    result = invoke("call", "echo", "ratio=x", "loud=maybe", "--json")

    errors = orjson.loads(result.stdout)["metadata"]["errors"]
    assert [(e["path"], e["expected"], e["got"]) for e in errors] == [
        ("/ratio", "a number", "'x'"),
        ("/loud", "a boolean", "'maybe'"),
    ]


# -- config


def test_config_shows_every_setting_and_who_set_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.toml").write_text("max_workers = 2\n")
    monkeypatch.setenv("TOOL_EXECUTOR_CACHE_TTL", "60")

    shown = answer("config", "--config", f"{tmp_path}/mine.toml", "--set", "cache_size=5", "--json")

    origins = {setting["name"]: (setting["value"], setting["origin"]) for setting in shown}
    assert origins["max_workers"] == (2, f"file {tmp_path}/mine.toml")
    assert origins["cache_ttl"] == (60, "environment TOOL_EXECUTOR_CACHE_TTL")
    assert origins["cache_size"] == (5, "--set")
    assert origins["debug"] == (False, "default")


def test_config_changed_shows_only_what_is_not_default_and_no_secret() -> None:
    lines = invoke("config", "--changed", "--set", "secret-key=hunter2", "--set", "timeout=none").stdout.splitlines()

    assert [line.split() for line in lines[1:]] == [["timeout", "null", "--set"], ["secret_key", "********", "--set"]]


# -- how the program fails


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["cal"], "there is no command 'cal'; did you mean 'call'?"),
        (["tools", "lsit"], "there is no command 'lsit'; did you mean 'list'?"),
        (
            ["xyzzy"],
            "there is no command 'xyzzy'; there are approvals, ",
        ),
        (["call", "add", "--usr", "x"], "--user"),
        (["config", "--chagned"], "--changed"),
        (["tools", "show", "ad"], "did you mean 'add'?"),
        (["config", "--set", "cache_sise=5"], "no setting is named 'cache_sise' (--set); did you mean 'cache_size'?"),
        (["config", "--set", "cache_size=x"], "cache_size must be a whole number, 1 or more, got 'x' (--set)"),
        (["config", "--set", "cache_size"], "write name=value"),
        (["config", "--config", "none.toml"], "none.toml"),
        (["tools", "list", "--set", "cache_backend=redis"], "no Redis is named"),
    ],
)
def test_wrong_usage_ends_with_2_and_the_way_out(arguments: list[str], said: str) -> None:
    result = invoke(*arguments)

    assert (result.exit_code, result.stdout) == (2, "")
    assert said in result.stderr
    assert "Traceback" not in result.stderr


def test_errors_are_json_on_standard_error_when_json_is_asked_for() -> None:
    result = invoke("tools", "show", "ad", "--json")

    assert (result.exit_code, result.stdout) == (2, "")
    assert orjson.loads(result.stderr)["error"]["code"] == "unknown_tool"


def test_debug_shows_the_traceback() -> None:
    assert "Traceback" in invoke("tools", "show", "ad", "--debug").stderr


def test_debug_logs_calls_and_stops_when_the_command_ends() -> None:
    import logging

    before = list(logging.getLogger("toolpost").handlers)

    result = invoke("call", "Text.Shout", "text=x", "--debug")

    assert "Text.Shout executed in" in result.stderr
    assert logging.getLogger("toolpost").handlers == before


def test_a_fault_of_toolpost_itself_has_its_own_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Any) -> Any:
        raise KeyError("oops")

    monkeypatch.setattr("toolpost.transports.cli_options.Setup.load_config", broken)

    result = invoke("config")

    assert result.exit_code == 70
    assert "toolpost itself failed: KeyError: 'oops'; --debug shows where" in result.stderr


def test_a_reader_that_goes_away_ends_the_program_quietly() -> None:
    with subprocess.Popen(
        command("tools", "list"), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.close()
        said = child.stderr.read()

    assert (child.returncode, said) == (141, b"")


def test_a_full_disk_is_told_in_a_sentence() -> None:
    with open("/dev/full", "wb") as full:
        ended = subprocess.run(
            command("tools", "list"), env=environment(), stdout=full, stderr=subprocess.PIPE, check=False
        )

    assert ended.returncode == 2
    assert ended.stderr == b"error: No space left on device\n"


def test_a_closed_standard_output_is_no_fault(tmp_path: Path) -> None:
    words = " ".join(command("call", "add", "a=1"))

    ended = subprocess.run(["sh", "-c", f"{words} >&-"], env=environment(), stderr=subprocess.PIPE, check=False)

    assert (ended.returncode, ended.stderr) == (0, b"")


def test_an_interrupted_call_ends_with_130(tmp_path: Path) -> None:
    import os
    import signal

    reached, release = tmp_path / "reached", tmp_path / "release"
    os.mkfifo(reached)
    os.mkfifo(release)
    env = environment(NOTES=f"{tmp_path}/notes", GATE="0", REACHED=str(reached), RELEASE=str(release))
    with subprocess.Popen(command("call", "gated", "n=1"), env=env, stderr=subprocess.PIPE) as child:
        reached.read_text()
        child.send_signal(signal.SIGINT)
        _, said = child.communicate()

    assert child.returncode == 130
    assert said.decode().strip() == "interrupted"


def test_json_is_utf8_whatever_the_encoding_of_the_terminal() -> None:
    env = {"PYTHONIOENCODING": "ascii"}

    ended = process("call", "Text.Shout", "text=größe ✓", env=env)

    assert orjson.loads(ended.stdout) == {"text": "GRÖSSE ✓"}


# -- on a terminal


def test_a_terminal_gets_a_ruled_table_and_colour_unless_no_color_is_set() -> None:
    _, styled = on_terminal("call", "add", "a=1", streams="stdout")
    _, ruled = on_terminal("tools", "list", streams="stdout")
    _, plain = on_terminal("tools", "list", streams="stdout", NO_COLOR="1")

    assert ESCAPE in styled
    assert "━" in ruled or "─" in ruled
    assert ESCAPE not in plain
    assert "Text.Shout  2.1.0    Write it in capitals." in plain


def test_a_terminal_gets_indented_json() -> None:
    _, shown = on_terminal("call", "add", "a=1", streams="stdout", NO_COLOR="1")

    assert shown.replace("\r", "") == '{\n  "result": 3\n}\n'


def test_a_terminal_is_not_moved_by_what_a_tool_says() -> None:
    _, shown = on_terminal("call", "fail", "code=\x1b[2J\x9b", streams="stderr")

    assert "\\u001b[2J\\u009b" in shown
    assert ESCAPE not in shown


def test_progress_and_log_lines_of_a_call_are_shown_on_a_terminal_only() -> None:
    code, shown = on_terminal("call", "told", streams="stderr")

    assert code == 0
    assert "info half way share=0.5" in shown
    assert "1/4 first quarter" in shown
    assert b"half way" not in process("call", "told").stderr
