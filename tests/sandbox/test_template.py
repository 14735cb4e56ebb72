"""What programs see of the interpreter, and where they import from."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from toolpost.sandbox import template


def test_of_an_interpreters_prefix_only_what_it_needs_is_shown(tmp_path: Path) -> None:
    for name in ("bin", "lib/python3.11/site-packages", "lib/python3.11/json", "envs/other", "pkgs", "etc", "share"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "lib64").symlink_to("lib")
    (tmp_path / "pip.conf").write_text("[global]\nproxy = http://user:password@example.com\n")
    prefix = str(tmp_path)

    assert [os.path.basename(one) for one in template.parts(prefix)] == ["bin", "lib", "lib64", "share"]
    assert template.hidden(prefix)[-1] == f"{prefix}/lib/python3.11/site-packages"


def test_below_usr_the_hosts_own_settings_and_applications_are_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "src/app").mkdir(parents=True)
    (tmp_path / "link").symlink_to("src")
    monkeypatch.setattr(template, "_PRIVATE", tuple(str(tmp_path / name) for name in ("src", "link", "etc")))

    assert template.hidden("/usr") == [str(tmp_path / "src")]
    assert template.hidden("/usr/local")[0] == str(tmp_path / "src")
    assert template.parts("/usr") == template.parts("/usr/local") == []


def test_who_makes_programs_never_imports_from_the_work_folder() -> None:
    """A session's next program is forked from a process that lives while hostile files lie in the work folder."""
    code = """
import json, os, sys
sys.path[:0] = json.loads(sys.argv[1])
from toolpost.sandbox import program
told = os.dup(1)
program.prepare({"work": "/box", "path": ["/usr/lib/a"]})
os.write(told, json.dumps(sys.path).encode())
"""
    command = [sys.executable, "-c", code, json.dumps(sys.path)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)

    assert json.loads(done.stdout) == ["/usr/lib/a"]
