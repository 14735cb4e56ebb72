"""What is handed to users is whole, and nothing in the tree names the machine or the index it came from."""

import re
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests import json_schema_suite

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

# Written so that they do not find themselves.
INDEX_OPTION = re.compile(r"--(extra-)?index[-]url|--find[-]links|--trusted[-]host|\bindex[-]url\s*=")
INDEX_HOST = re.compile(r"\b(py(pi|thonhosted)|npm(js)?|crates|rubygems|golang)\.(org|io|com)\b", re.IGNORECASE)
# Parents of a checkout that say nothing about one machine, because anybody may name them.
COMMON_FOLDERS = {
    "/",
    "/app",
    "/home",
    "/mnt",
    "/opt",
    "/root",
    "/src",
    "/srv",
    "/tmp",
    "/usr",
    "/usr/local",
    "/var",
}


def tracked_files() -> list[Path]:
    """All text that is or would be committed; outside a checkout, all that is not made by the tools."""
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        names = subprocess.run(listing, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
        paths = [ROOT / name for name in names if name]
    except (OSError, subprocess.CalledProcessError):
        made = re.compile(r"(\.git|\.venv.*|\..*cache|__pycache__|\.hypothesis|build|dist)$")
        paths = [path for path in ROOT.rglob("*") if not any(map(made.match, path.relative_to(ROOT).parts))]
    return [path for path in paths if path.is_file()]


def traces(text: str, machine_paths: re.Pattern[str]) -> list[str]:
    """The index options, index hosts and machine paths that a text names."""
    return [found[0] for pattern in (INDEX_OPTION, INDEX_HOST, machine_paths) for found in pattern.finditer(text)]


def paths_below(folders: set[str]) -> re.Pattern[str]:
    """Matches the folders where a path inside them begins, unless anybody's path may begin so."""
    telling = sorted(re.escape(folder) for folder in folders - COMMON_FOLDERS)
    return re.compile(rf"(?<![\w./-])({'|'.join(telling) or '(?!)'})(?=/)")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built from the tree with what is installed and nothing fetched."""
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    [path] = out.glob("*.whl")
    return zipfile.ZipFile(path)


def metadata_file(wheel: zipfile.ZipFile, name: str) -> str:
    return wheel.read(f"toolpost-{PROJECT['version']}.dist-info/{name}").decode()


def test_the_wheel_holds_every_source_file_and_the_typing_marker(wheel: zipfile.ZipFile) -> None:
    sources = {path for path in (ROOT / "src" / "toolpost").rglob("*") if path.is_file()}
    expected = {path.relative_to(ROOT / "src").as_posix() for path in sources if "__pycache__" not in path.parts}

    packed = {name for name in wheel.namelist() if ".dist-info/" not in name}

    assert packed == expected
    assert "toolpost/py.typed" in packed


def test_the_wheel_carries_the_licence(wheel: zipfile.ZipFile) -> None:
    assert metadata_file(wheel, "licenses/LICENSE") == (ROOT / "LICENSE").read_text()


def test_the_wheel_says_what_it_is_and_needs(wheel: zipfile.ZipFile) -> None:
    metadata = Parser().parsestr(metadata_file(wheel, "METADATA"))

    assert (metadata["Name"], metadata["Version"]) == ("toolpost", PROJECT["version"])
    assert (metadata["License-Expression"], metadata["Requires-Python"]) == ("MIT", ">=3.11")
    required = metadata.get_all("Requires-Dist", [])
    assert sorted(text for text in required if "extra ==" not in text) == sorted(PROJECT["dependencies"])
    for extra, wanted in PROJECT["optional-dependencies"].items():
        given = {plain(text) for text in required if f"extra == '{extra}'" in text}
        each = {p for name, packages in PROJECT["optional-dependencies"].items() if name != "all" for p in packages}
        assert given == {plain(text) for text in (each if extra == "all" else wanted)}


def plain(text: str) -> tuple[str, frozenset[str], str]:
    """A requirement without its marker: name, extras, versions."""
    requirement = Requirement(text)
    return requirement.name, frozenset(requirement.extras), str(requirement.specifier)


def test_the_wheel_holds_the_scripts_of_the_stores(wheel: zipfile.ZipFile) -> None:
    scripts = {path.name for path in (ROOT / "src/toolpost/stores").glob("*.lua")}

    assert scripts
    assert {f"toolpost/stores/{name}" for name in scripts} <= set(wheel.namelist())


def test_the_wheel_installs_the_command(wheel: zipfile.ZipFile) -> None:
    assert "toolpost = toolpost.transports.cli:main" in metadata_file(wheel, "entry_points.txt")


@pytest.mark.parametrize("path", sorted((ROOT / "requirements").glob("*.txt")), ids=lambda path: path.name)
def test_every_requirement_is_pinned_by_hash_and_names_no_address(path: Path) -> None:
    text = path.read_text()

    entries = re.split(r"\n(?=\S)", re.sub(r"(?m)^\s*#.*\n?", "", text).strip())

    assert [
        entry for entry in entries if not re.match(r"[a-z0-9.\[\],_-]+==\S+ .*--hash=sha256:", entry, re.DOTALL)
    ] == []
    assert "://" not in text
    assert " @ " not in text


def test_no_tracked_file_names_an_index_or_a_path_of_this_machine() -> None:
    machine_paths = paths_below({str(ROOT), str(ROOT.parent), str(Path.home()), sys.prefix, sys.base_prefix})

    found = {}
    for path in tracked_files():
        if here := traces(path.read_bytes().decode(errors="replace"), machine_paths):
            found[path.relative_to(ROOT).as_posix()] = here

    assert found == {}


@pytest.mark.parametrize(
    "line",
    [
        "--index" + "-url somewhere",
        "see https://py" + "pi.org/project/toolpost",
        "files.py" + "thonhosted.org",
        "registry.npm" + "js.org",
        "# via -r /where/it/was/requirements/dev.in",
        "cd /where/it/was/",
    ],
)
def test_a_trace_is_noticed(line: str) -> None:
    machine_paths = paths_below({"/where/it/was", "/tmp"})

    assert traces(line, machine_paths) != []


@pytest.mark.parametrize("line", ["data/where/it/was/kept", "/where/it/wasp/", "/tmp/x", "index the url"])
def test_what_only_looks_like_a_trace_passes(line: str) -> None:
    assert traces(line, paths_below({"/where/it/was", "/tmp"})) == []


def test_a_suite_that_is_not_the_pinned_one_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "jsonschema.tar.gz"
    archive.write_bytes(b"another archive")

    with pytest.raises(ValueError, match=r"has sha256 \w+, but json-schema-suite\.txt pins"):
        json_schema_suite._unpack(archive, tmp_path / "suite")

    assert not (tmp_path / "suite").exists()


@pytest.mark.parametrize(("ci", "outcome"), [("", pytest.skip.Exception), ("true", pytest.fail.Exception)])
def test_a_missing_suite_skips_on_a_laptop_and_fails_in_ci(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ci: str, outcome: type[BaseException]
) -> None:
    monkeypatch.setattr(json_schema_suite, "CACHE", tmp_path)
    monkeypatch.setenv("CI", ci)

    with pytest.raises(outcome, match=r"python tests/json_schema_suite\.py"):
        json_schema_suite.installed_suite()


def test_the_installed_suite_holds_the_tests_and_the_remote_documents() -> None:
    suite = json_schema_suite.installed_suite()

    assert len(list((suite / "tests" / "draft2020-12").glob("*.json"))) > 40
    assert (suite / "remotes" / "draft2020-12").is_dir()
