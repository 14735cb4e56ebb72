"""`toolpost lock`: write, compare, and the doctor's word on it."""

from pathlib import Path

import orjson
import pytest

from tests.transports.cli_shop import invoke

SOURCE = '''from toolpost import Tool

@Tool(name="Math.Add", register=False)
def add(a: int) -> int:
    """TEXT"""
    return a
'''


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with one file of tools."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "Add.")
    return tmp_path


def write(folder: Path, text: str, name: str = "shop") -> str:
    """A file of tools, which a process imports once under its name."""
    (folder / f"{name}.py").write_text(SOURCE.replace("TEXT", text))
    return f"{folder}/{name}.py:add"


def lock(*arguments: str) -> object:
    return invoke("lock", *arguments, tools=False)


def test_a_lock_is_written_and_written_again_alike(shop: Path) -> None:
    reference = write(shop, "Add.", "shop_one")
    first, again = lock("--tools", reference), lock("--tools", reference, "--json")

    assert (first.exit_code, first.stdout) == (0, "toolpost.lock: 1 tools are locked\n")
    assert orjson.loads(again.stdout) == {
        "lock": "toolpost.lock",
        "tools": 1,
        "changed": False,
        "unseen": [],
        "differed": {"fits": True, "drifted": [], "unknown": [], "absent": []},
    }
    assert '"Math.Add@1.0.0"' in (shop / "toolpost.lock").read_text()


def test_check_ends_with_1_and_shows_what_differs(shop: Path) -> None:
    assert lock("--tools", write(shop, "Add.", "shop_two")).exit_code == 0
    same = lock("--check", "--tools", f"{shop}/shop_two.py:add")
    other = write(shop, "Add, and tell nobody.", "shop_three")
    drifted, scripted = lock("--check", "--tools", other), lock("--check", "--tools", other, "--json")
    absent = lock("--check")

    assert (same.exit_code, same.stdout) == (0, "toolpost.lock: every tool is as locked\n")
    assert (drifted.exit_code, scripted.exit_code, absent.exit_code) == (1, 1, 1)
    assert '-      "Add."\n+      "Add, and tell nobody."' in drifted.stdout
    assert orjson.loads(scripted.stdout)["drifted"][0]["changed"] == ["description"]
    assert absent.stdout == "Math.Add@1.0.0 is in the lock, and there is no such tool\n"


def test_a_lock_in_force_can_be_written_anew_and_refuses_until_then(shop: Path) -> None:
    force = ("--set", "lock_file=toolpost.lock")
    lock("--tools", write(shop, "Add.", "shop_four"))
    other = write(shop, "Add more.", "shop_five")
    refused = invoke("tools", "list", *force, "--tools", other, tools=False)
    written = lock(*force, "--tools", other)
    listed = invoke("tools", "list", *force, "--tools", other, tools=False)

    assert (refused.exit_code, written.exit_code, listed.exit_code) == (2, 0, 0)
    assert "its description changed, so it is refused" in refused.stderr
    assert '+      "Add more."' in written.stdout


def test_what_no_reviewer_sees_is_named(shop: Path) -> None:
    done = lock("--tools", write(shop, "Add.\\u200b", "shop_six"))

    assert done.exit_code == 0
    assert "warning: Math.Add@1.0.0: /description/text/0 has U+200B ZERO WIDTH SPACE at character 5" in done.stderr


def test_a_file_that_is_no_lock_is_left_alone(shop: Path) -> None:
    (shop / "notes.txt").write_text("mine")

    assert lock("-o", "notes.txt").exit_code == 2
    assert (shop / "notes.txt").read_text() == "mine"
    assert lock("--check", "-o", "nowhere.lock").exit_code == 2


def test_a_lock_that_a_merge_broke_is_written_anew(shop: Path) -> None:
    reference = write(shop, "Add.", "shop_seven")
    lock("--tools", reference)
    path = shop / "toolpost.lock"
    path.write_text(f"<<<<<<< ours\n{path.read_text()}")

    assert lock("--check", "--tools", reference).exit_code == 2
    assert lock("--tools", reference).exit_code == 0
    assert lock("--check", "--tools", reference).exit_code == 0


def test_the_doctor_tells_whether_the_tools_fit_their_lock(shop: Path) -> None:
    reference = write(shop, "Add.", "shop_eight")
    lock("--tools", reference)
    other = write(shop, "Add more.", "shop_nine")

    def said(*arguments: str) -> tuple[str, str]:
        findings = orjson.loads(invoke("doctor", "--json", *arguments, tools=False).stdout)
        (found,) = [one for one in findings if one["check"] == "lock"]
        return found["status"], found["found"]

    force = ("--set", "lock_file=toolpost.lock")
    assert said(*force, "--tools", reference)[0] == "ok"
    assert said(*force, "--tools", other) == ("fail", "tools are 1 drifted")
    assert said(*force) == ("warn", "tools are 1 absent")
    assert said("--set", "lock_file=nowhere.lock")[0] == "fail"
