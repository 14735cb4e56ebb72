"""Arguments of a call become arguments of a program: one each, never options, never read by a shell."""

import shutil
import subprocess
import sys

import pytest
from hypothesis import given, settings, strategies as st

from tests.corpora import items
from toolpost import ConfigurationError, InputValidationError
from toolpost.security.commands import MAX_BYTES, command_environment, command_line

TEXT = st.text(max_size=40).filter(lambda s: "\0" not in s and not any(0xD800 <= ord(c) < 0xE000 for c in s))


def test_each_place_is_one_argument_whatever_it_holds():
    line = command_line(["grep", "-n", "--", "{pattern}", "{file}"], {"pattern": "a; rm -rf $HOME", "file": "-x y"})

    assert line == ["grep", "-n", "--", "a; rm -rf $HOME", "-x y"]


def test_a_list_is_as_many_arguments_and_other_values_are_written_plainly():
    line = command_line(["echo", "{words}", "{n}", "{yes}"], {"words": ["a b", "", "c"], "n": 1.5, "yes": True})

    assert line == ["echo", "a b", "", "c", "1.5", "true"]


def test_within_an_item_an_argument_is_part_of_it_and_the_item_goes_where_there_is_none():
    template = ["tool", "--depth={depth}", "--name={name}"]

    assert command_line(template, {"depth": -3, "name": "--x"}) == ["tool", "--depth=-3", "--name=--x"]
    assert command_line(template, {"name": None}) == ["tool"]


@given(TEXT)
def test_an_argument_is_never_an_option_where_options_are_read(text):
    template = ["tool", "{text}", "{text}.txt", "--x={text}", "--", "{text}"]
    if text.startswith("-"):
        with pytest.raises(InputValidationError, match="'text' must not begin with '-'"):
            command_line(template, {"text": text})
    else:
        assert command_line(template, {"text": text}) == ["tool", text, f"{text}.txt", f"--x={text}", "--", text]


def test_what_else_begins_options_is_the_authors_to_say():
    with pytest.raises(InputValidationError, match="must not begin with '@'"):
        command_line(["curl", "-d", "{data}"], {"data": "@/etc/passwd"}, options_begin=("-", "@"))


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("a\0b", "NUL"),
        ("\ud800", "Unicode"),
        ("x" * (MAX_BYTES + 1), "bytes"),
        (None, "missing"),
        ({"a": 1}, "text, a number"),
        ([["a"]], "text, a number"),
    ],
)
def test_what_cannot_be_an_argument_is_refused_by_its_name(value, says):
    with pytest.raises(InputValidationError, match=f"'text' .*{says}") as raised:
        command_line(["echo", "{text}"], {"text": value})

    assert raised.value.errors()[0]["path"] == "/text"


@pytest.mark.parametrize(
    "template",
    [
        ["{program}", "x"],
        ["/bin/{program}"],
        [],
        "echo {text}",
        ["sh", "-c", "ls {text}"],
        ["/usr/bin/env", "bash", "-ec", "{text}"],
        ["python3", "-c", "{text}"],
        ["perl", "-ne", "print {text}"],
        ["cmd.exe", "/C", "dir {text}"],
        ["powershell", "-Command", "{text}"],
    ],
)
def test_a_template_in_which_an_argument_would_be_code_is_refused(template):
    with pytest.raises(ConfigurationError):
        command_line(template, {"text": "x", "program": "x"})


@pytest.mark.parametrize(
    "template",
    [
        ["ssh", "host", "ls", "{folder}"],
        ["/usr/bin/watch", "ls", "{folder}"],
        [r"C:\tools\Run.BAT", "{folder}"],
        ["run.cmd", "--in={folder}"],
        ["python3.11", "-c", "{code}"],
        ["python", "-c{code}"],
        ["node", "--eval={code}"],
    ],
)
def test_a_template_whose_program_would_read_an_argument_as_code_is_refused(template):
    with pytest.raises(ConfigurationError, match="say anything"):
        command_line(template, {"folder": "x", "code": "x"})

    assert command_line(["ssh", "host", "uptime"], {}) == ["ssh", "host", "uptime"]


def test_a_script_may_be_given_arguments_and_a_pattern_is_no_code():
    assert command_line(["bash", "script.sh", "{text}"], {"text": "x"}) == ["bash", "script.sh", "x"]
    assert command_line(["grep", "-e", "{text}"], {"text": "x"}) == ["grep", "-e", "x"]


SHOW = "import sys; sys.stdout.buffer.write(b'\\0'.join(a.encode('utf-8', 'surrogateescape') for a in sys.argv[1:]))"


@settings(max_examples=25, deadline=None)
@given(st.lists(TEXT, max_size=6))
def test_a_program_is_given_exactly_the_arguments(values):
    line = command_line([sys.executable, "-S", "-c", SHOW, "--", "{values}"], {"values": values})

    got = subprocess.run(line, capture_output=True, check=True).stdout

    assert got.decode() == "\0".join(["--", *values])


def test_no_attack_of_the_corpora_does_more_than_be_printed(tmp_path):
    """Every item, as an argument of real programs, in a folder with canaries: none is touched, none appears."""
    attacks = [text for text in items("mal_cmdi_*") if "\0" not in text]
    before = {name: f"canary {name}" for name in ("canary.txt", "passwd", "index.html")}
    for name, content in before.items():
        (tmp_path / name).write_text(content)
    printf, sh = shutil.which("printf"), shutil.which("echo")
    environment = command_environment(HOSTILE="x")
    counted = 0

    for start in range(0, len(attacks), 50):
        some = attacks[start : start + 50]
        line = command_line([printf, "%s\\0", "--", "{texts}"], {"texts": some})
        # printf takes its format first, so "--" is data to it here, as every attack is.
        got = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, check=True, timeout=20).stdout
        assert got.decode("utf-8", "surrogateescape").split("\0")[1:-1] == some
        counted += len(some)
    for text in attacks[::20]:
        line = command_line([sh, "--", "{text}"], {"text": text})
        subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, check=True, timeout=20)

    assert counted == len(attacks) > 300
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == before


def test_a_program_gets_only_what_is_kept_of_the_environment(monkeypatch):
    monkeypatch.setenv("CANARY", "canary-environment")
    monkeypatch.setenv("LANG", "C.UTF-8")

    environment = command_environment(["LANG", "NOT_SET"], CITY="Paris; rm -rf /")

    assert environment == {"LANG": "C.UTF-8", "CITY": "Paris; rm -rf /"}
    shown = subprocess.run([shutil.which("env")], env=environment, capture_output=True, text=True, check=True).stdout
    assert "canary" not in shown


@pytest.mark.parametrize("name", ["LD_PRELOAD", "PYTHONPATH", "PATH", "BASH_ENV", "git_ssh_command", "IFS"])
def test_what_steers_programs_is_not_given_along(name):
    with pytest.raises(ConfigurationError, match="name it in keep"):
        command_environment(**{name: "x"})


def test_a_variable_holds_no_nul():
    with pytest.raises(InputValidationError, match=r"'CITY' .*NUL"):
        command_environment(CITY="a\0b")
