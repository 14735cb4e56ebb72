"""Where tools come from on the command line, and that its options may stand anywhere."""

import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import orjson
import pytest
from click.testing import CliRunner

from tests.transports.cli_shop import HERE, environment, invoke
from toolpost.engine.plugins import GROUP
from toolpost.transports.cli import main

TOOL = "from toolpost import Tool\n\n@Tool(register=False)\ndef {name}() -> str:\n    return __name__\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory of its own; what is imported from it is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in str(sys.modules[name].__file__):
            del sys.modules[name]


def module_of(reference: str, tool: str) -> str:
    """The name of the module that a tool loaded by a reference finds itself in."""
    ended = invoke("call", tool, "--tools", reference, tools=False)
    assert ended.exit_code == 0, ended.stderr
    return str(orjson.loads(ended.stdout)["result"])


def test_a_module_of_the_working_directory_is_found(here: Path) -> None:
    (here / "warehouse_a.py").write_text(TOOL.format(name="stock"))

    assert module_of("warehouse_a:stock", "stock") == "warehouse_a"


def test_a_file_is_loaded_under_its_own_name_and_finds_its_neighbours(here: Path) -> None:
    (here / "sub").mkdir()
    (here / "sub" / "warehouse_b.py").write_text("import neighbour_b\n" + TOOL.format(name="stock"))
    (here / "sub" / "neighbour_b.py").write_text("")

    assert module_of("sub/warehouse_b.py:stock", "stock") == "warehouse_b"


def test_a_file_in_a_package_is_loaded_as_its_module(here: Path) -> None:
    package = here / "depot_c" / "inner"
    package.mkdir(parents=True)
    for folder in (here / "depot_c", package):
        (folder / "__init__.py").write_text("")
    (package / "warehouse.py").write_text("from . import other\n" + TOOL.format(name="stock"))
    (package / "other.py").write_text("")

    assert module_of("depot_c/inner/warehouse.py:stock", "stock") == "depot_c.inner.warehouse"


@pytest.mark.parametrize("name", ["json.py", "my-tools.py"])
def test_a_file_whose_name_is_taken_or_no_name_is_loaded_all_the_same(here: Path, name: str) -> None:
    (here / name).write_text(TOOL.format(name="stock"))

    assert module_of(f"{name}:stock", "stock").startswith(f"{Path(name).stem}_")
    assert sys.modules["json"].__file__ != str(here / "json.py")


def test_an_entry_point_is_loaded_by_its_name(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "warehouse_d.py").write_text(TOOL.format(name="stock"))
    point = metadata.EntryPoint("warehouse", "warehouse_d:stock", GROUP)
    monkeypatch.setattr(metadata, "entry_points", lambda group: [point] if group == GROUP else [])

    assert module_of("warehouse", "stock") == "warehouse_d"
    assert "did you mean 'warehouse'?" in invoke("tools", "list", "--tools", "warehuose", tools=False).stderr


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("nope_e:x", "module 'nope_e' could not be loaded: ModuleNotFoundError: No module named 'nope_e'"),
        ("broken_e:x", "module 'broken_e' could not be loaded: SyntaxError"),
        ("leaving_e.py:x", "file 'leaving_e.py' could not be loaded: SystemExit: 3"),
        ("tools_e:stok", "module 'tools_e' has no 'stok'; did you mean 'stock'?"),
        ("tools_e.py:stok", "file 'tools_e.py' has no 'stok'; did you mean 'stock'?"),
        ("none_e.py:x", "there is no file 'none_e.py'"),
        ("tools_e.py", "names no attribute; write tools_e.py:attribute"),
        ("tools_e:", "write module:attribute"),
        ("tools_e", "is neither module:attribute, path/to/file.py:attribute nor an entry point"),
        ("tools_e:number", "is not a tool"),
        ("tools_e:plain", "put @Tool() on it"),
        ("tools_e:empty", "there is no tool in it"),
        ("tools_e:Angry", "RuntimeError: not today"),
    ],
)
def test_a_reference_that_leads_nowhere_is_told_in_one_sentence(here: Path, reference: str, said: str) -> None:
    (here / "broken_e.py").write_text("def (")
    (here / "leaving_e.py").write_text("raise SystemExit(3)")
    angry = "from toolpost import BaseTool\nclass Angry(BaseTool):\n    def __init__(self):\n"
    angry += "        raise RuntimeError('not today')\n"
    rest = "number = 5\ndef plain(): ...\nempty = []\n"
    (here / "tools_e.py").write_text(TOOL.format(name="stock") + rest + angry)

    ended = invoke("tools", "list", "--tools", reference, tools=False)

    assert (ended.exit_code, ended.stdout) == (2, "")
    assert ended.stderr.startswith(f"error: --tools {reference}: ")
    assert said in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_what_a_module_prints_when_it_is_loaded_does_not_stand_among_the_output(here: Path) -> None:
    (here / "loud_f.py").write_text("print('loading')\n" + TOOL.format(name="stock"))

    ended = invoke("tools", "list", "--json", "--tools", "loud_f:stock", tools=False)

    assert [tool["name"] for tool in orjson.loads(ended.stdout)] == ["stock"]
    assert "loading" in ended.stderr


def test_one_reference_given_twice_is_loaded_once() -> None:
    assert invoke("tools", "list", "--tools", HERE).exit_code == 0


@pytest.mark.parametrize("place", [0, 1, 2])
def test_shared_options_stand_before_or_after_any_command(place: int) -> None:
    words = ["tools", "list"]
    words.insert(place, "--json")

    assert isinstance(orjson.loads(invoke(*words).stdout), list)


def test_help_of_a_command_lists_shared_options_apart() -> None:
    text = invoke("call", "--help").stdout

    own, shared = text.split("Options of every command:")
    assert "--deadline" in own
    assert "--tools" in shared
    assert "--tools" not in own


def test_plugins_of_the_configuration_are_loaded(here: Path) -> None:
    (here / "warehouse_g.py").write_text(TOOL.format(name="stock"))
    (here / "toolpost.toml").write_text('plugins = ["warehouse_g:stock"]\n')

    assert "stock" in invoke("tools", "list", tools=False).stdout


def test_a_standard_tool_gives_way_to_one_of_its_name(here: Path) -> None:
    source = TOOL.format(name="mine").replace("Tool(", "Tool(name='Web.ParseJSON', description='Mine.', ")
    (here / "warehouse_h.py").write_text(source)

    ended = CliRunner().invoke(main, ["tools", "list", "--json", "--tools", "warehouse_h:mine"])

    described = {tool["name"]: tool["description"] for tool in orjson.loads(ended.stdout)}
    assert described["Web.ParseJSON"] == "Mine."
    assert "Web.ExtractURLs" in described


def test_two_tools_of_one_name_are_refused(here: Path) -> None:
    for name in ("warehouse_i", "warehouse_j"):
        (here / f"{name}.py").write_text(TOOL.format(name="stock"))

    ended = invoke("tools", "list", "--tools", "warehouse_i:stock", "--tools", "warehouse_j:stock", tools=False)

    assert ended.exit_code == 2
    assert "a tool named 'stock' of version 1.0.0 is registered already" in ended.stderr


def test_the_standard_tools_are_there_unless_they_are_left_out() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "toolpost", "tools", "list"],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        cwd=os.sep,
    )

    assert ended.returncode == 0, ended.stderr
    assert "Web.ParseJSON" in ended.stdout
    assert "Web.ParseJSON" not in invoke("tools", "list").stdout
